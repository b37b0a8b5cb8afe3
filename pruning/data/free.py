"""A data set whose examples have any form: several inputs, labels of any shape, as tasks other than classification need.

Inputs and labels are tensors, or tuples and dicts of such; they reach the model as they are, but uint8 inputs as float32 from 0 to
1, and integer labels as int64. Augmentation is for images with one label each: the items of a torch data set can do their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from pruning import seeds, trees
from pruning.data.items import Items, Loader
from pruning.data.source import PARTS, check_part, class_balanced, drawn, split
from pruning.errors import PlanError
from pruning.value_range import finite

Batch = tuple[Any, Any]


class FreeData:
    """Examples of any form on `device`; the interface is that of :class:`pruning.data.tensors.TensorData`."""

    def __init__(
        self,
        name: str,
        parts: Mapping[str, Any],
        classes: int,
        task: Any,
        *,
        rule: str,
        split_seed: int,
        device: torch.device | str,
        workers: int = 0,
    ) -> None:
        self.name, self.classes, self.task = name, classes, task
        self._device = torch.device(device)
        self._held = {part: _held(f"data '{name}', {part}", parts[part]) for part in PARTS if parts[part] is not None}
        sizes = {part: _size(held) for part, held in self._held.items()}
        if "validation" in sizes:
            self._index = {part: (part, torch.arange(n)) for part, n in sizes.items()}
        else:
            self._index = split(sizes["train"], sizes["test"], rule, split_seed)
        self.sizes = {part: len(index) for part, (_, index) in self._index.items()}
        items = {part: Items(f"data '{name}', {part}", held, _item) for part, held in self._held.items() if _made(held)}
        self._loader = Loader(items, self._device, workers)
        x, y = self.first()
        for leaf in trees.leaves((x, y)):
            if not isinstance(leaf, Tensor):
                raise PlanError(f"data '{name}': inputs and labels must be tensors, not {type(leaf).__name__}")
        self.shape = trees.shapes(x)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of training batches in an epoch; the last may be short."""
        return math.ceil(self.sizes["train"] / batch_size)

    def train_batches(self, batch_size: int, epoch: int, seed: int) -> Iterator[Batch]:
        """Returns an iterator over the epoch's batches (x, y), shuffled; items are made anew, seeded by epoch and place."""
        order = torch.randperm(self.sizes["train"], generator=seeds.generator(seed, "order", epoch))
        yield from self._batches("train", order, batch_size, seeds.derive(seed, "items", epoch))

    def batches(self, part: str, batch_size: int) -> Iterator[Batch]:
        """Returns an iterator over a part's batches in fixed order; what is random in items is the same every time."""
        check_part(part)
        yield from self._batches(part, torch.arange(self.sizes[part]), batch_size, 0)

    def balanced(self, per_class: int, seed: int) -> Batch:
        """Returns (x, y) of `per_class` random training examples of each class; raises PlanError where labels are no classes."""
        labels = [y for _, y in self.batches("train", 256)]
        if not all(isinstance(y, Tensor) and y.dim() == 1 and not y.is_floating_point() for y in labels):
            raise PlanError(f"data '{self.name}': a class-balanced sample needs one integer label for each example")
        chosen = class_balanced(torch.cat(labels).cpu(), self.classes, per_class, seed)
        return self._chosen("train", chosen)

    def sample(self, number: int, seed: int) -> Batch:
        """Returns (x, y) of `number` random training examples."""
        return self._chosen("train", drawn(self.sizes["train"], number, seed))

    def example(self) -> Any:
        """Returns x of the first training example, as a batch of one."""
        return self.first()[0]

    def first(self) -> Batch:
        """Returns (x, y) of the first training example, as a batch of one."""
        return self._chosen("train", torch.arange(1))

    def _batches(self, part: str, order: Tensor, size: int, base: int) -> Iterator[Batch]:
        held, index = self._index[part]
        if _made(self._held[held]):
            for x, y in self._loader.load(held, index[order].tolist(), size, base, lambda y: None):
                yield self._placed(x, y)
            return
        for chosen in index[order].split(size):
            yield self._placed(*_at(self._held[held], chosen))

    def _chosen(self, part: str, order: Tensor) -> Batch:
        """Returns (x, y) of the part's examples in `order`, as one batch."""
        held, index = self._index[part]
        if _made(self._held[held]):
            return self._placed(*self._loader.some(held, index[order].tolist(), 0))
        return self._placed(*_at(self._held[held], index[order]))

    def _placed(self, x: Any, y: Any) -> Batch:
        return trees.each(self._input, x), trees.each(self._label, y)

    def _label(self, y: Tensor) -> Tensor:
        y = y.to(self._device)
        return y if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool else y.long()

    def _input(self, x: Tensor) -> Tensor:
        x = x.to(self._device)
        return x.float() / 255 if x.dtype == torch.uint8 else x.float() if x.is_floating_point() else x


def _held(what: str, given: Any) -> Any:
    """Returns (x, y) as trees of tensors on the CPU, or the data set of items; raises PlanError for anything else."""
    if isinstance(given, TensorDataset):
        given = given.tensors
    if isinstance(given, Dataset):
        if _size(given) == 0:
            raise PlanError(f"{what} is empty")
        return given
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise PlanError(f"{what} must be a pair (x, y) or a torch data set, not {type(given).__name__}")
    try:
        x, y = (_as_tensors(value) for value in given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PlanError(f"{what}: x and y must be tensors or arrays, or tuples and dicts of such: {error}") from None
    lengths = {len(tensor) for tensor in trees.tensors((x, y)) if tensor.dim()}
    if len(lengths) != 1 or 0 in lengths or not all(tensor.dim() for tensor in trees.tensors((x, y))):
        raise PlanError(
            f"{what}: all tensors of x and y need the same number of examples, above 0; there are {sorted(lengths)}"
        )
    for tensor in trees.tensors(x):
        if tensor.is_floating_point() and not finite(tensor):
            raise PlanError(f"{what}: x has values that are not finite")
    return x, y


def _as_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_tensors(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_as_tensors(inner) for inner in value)
    return torch.as_tensor(value).detach().cpu()


def _size(held: Any) -> int:
    return trees.examples(held[0]) if isinstance(held, tuple) else len(held)


def _at(held: Batch, chosen: Tensor) -> Batch:
    """Returns the examples at the places `chosen`."""
    x, y = (trees.each(lambda t: t[chosen], value) for value in held)
    return x, y


def _made(held: Any) -> bool:
    """Returns whether what is held is a data set of items, not tensors."""
    return not isinstance(held, tuple)


def _item(what: str, given: Any) -> Batch:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise PlanError(f"{what} must be a pair (x, y), not {type(given).__name__}")
    return given[0], given[1]
