"""A data set whose examples have any form: several inputs, labels of any shape, as tasks other than classification need.

Inputs and labels are tensors, or tuples and dicts of such; they reach the model as they are, but uint8 images as float32 from 0 to
1. Augmentation is for images with one label each: the items of a torch data set can do their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from pruning import seeds, trees, usercode
from pruning.data.source import PARTS, check_part, class_balanced, split
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
        self.shape = trees.shapes(self.example())

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
        """Returns (x, y) of random training examples: `per_class` of each class where labels are classes, else as many in all."""
        held, index = self._index["train"]
        labels = self._held[held][1] if isinstance(self._held[held], tuple) else None
        if isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point():
            chosen = class_balanced(labels[index], self.classes, per_class, seed)
        else:
            chosen = torch.randperm(len(index), generator=seeds.generator(seed, "balanced"))[: per_class * self.classes]
        return next(self._batches("train", chosen, len(chosen), 0))

    def example(self) -> Any:
        """Returns x of the first training example, as a batch of one."""
        return self.first()[0]

    def first(self) -> Batch:
        """Returns (x, y) of the first training example, as a batch of one."""
        return next(self._batches("train", torch.arange(1), 1, 0))

    def _batches(self, part: str, order: Tensor, size: int, base: int) -> Iterator[Batch]:
        held, index = self._index[part]
        for chosen in index[order].split(size):
            x, y = _taken(f"data '{self.name}', {held}", self._held[held], chosen, base)
            yield trees.each(self._input, x), trees.each(lambda t: t.to(self._device), y)

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


def _taken(what: str, held: Any, chosen: Tensor, base: int) -> Batch:
    if isinstance(held, tuple):
        return trees.each(lambda t: t[chosen], held[0]), trees.each(lambda t: t[chosen], held[1])
    items = []
    for i in chosen.tolist():
        with usercode.seeded((base + (i + 1) * 0x4F1BBCDCBFA53E0B) % 2**63):
            items.append(held[i])
    try:
        x, y = default_collate(items)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PlanError(f"{what}: items must be pairs (x, y) of equal shapes: {str(error).splitlines()[0]}") from None
    return x, y
