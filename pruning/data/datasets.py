"""A data set whose items are images with one label each, made one by one (torch.utils.data.Dataset)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pruning import seeds
from pruning.data.items import Items, Loader
from pruning.data.preparation import Affine, prepare
from pruning.data.source import PARTS, Pair, check_part, class_balanced, drawn
from pruning.plan import PlanError
from pruning.value_range import finite


class ItemData:
    """A data set of items; the interface is that of :class:`pruning.data.tensors.TensorData`.

    `parts` holds {part: (data set, indices [n])}, `augmented` what training takes its items from where that is another
    data set of the same indices: one whose items are transformed at random. `labels` are those of the training part,
    where they are known without making the items; `constants` are those that normalize "channel" takes.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, tuple[Dataset, Tensor]],
        classes: int,
        *,
        labels: Tensor | None = None,
        augmented: Dataset | None = None,
        augment: str = "default",
        normalize: str = "default",
        constants: Affine | None = None,
        padding: int = 4,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.task = "classification"
        self.classes = classes
        self.sizes = {part: len(parts[part][1]) for part in PARTS}
        self._index = {part: index.tolist() for part, (_, index) in parts.items()}
        self._items = {part: Items(f"data '{name}', {part}", dataset, _pair) for part, (dataset, _) in parts.items()}
        self._items["augmented"] = Items(f"data '{name}', train", augmented or parts["train"][0], _pair)
        self._labels = labels
        self._device = torch.device(device)
        self._loader = Loader(self._items, self._device, workers)
        first = self._loader.some("train", self._index["train"][:1], 0)[0]
        self.shape = tuple(first.shape[1:])
        for part in PARTS:
            self._check(part, first)
        scale = 255.0 if first.dtype == torch.uint8 else 1.0
        self._prepare = prepare(
            name, first, augment=augment, normalize=normalize, padding=padding, scale=scale, device=self._device,
            constants=constants and (lambda: constants), default="channel" if constants else "none",
        )  # fmt: skip

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of training batches in an epoch; the last may be short."""
        return math.ceil(self.sizes["train"] / batch_size)

    def train_batches(self, batch_size: int, epoch: int, seed: int) -> Iterator[Pair]:
        """Returns an iterator over the epoch's batches (x [B, ...], y [B] int64), shuffled, their items made anew."""
        n = self.sizes["train"]
        order = torch.randperm(n, generator=seeds.generator(seed, "order", epoch)).tolist()
        indices = [self._index["train"][i] for i in order]
        draws = self._prepare.draw(n, seed, epoch, self._device)
        base = seeds.derive(seed, "items", epoch)
        for step, (x, y) in enumerate(self._load("augmented", indices, batch_size, base)):
            now = slice(step * batch_size, (step + 1) * batch_size)
            yield self._prepare.train(x, draws, now), y

    def batches(self, part: str, batch_size: int) -> Iterator[Pair]:
        """Returns an iterator over a part's batches in fixed order; what is random in items is the same every time."""
        check_part(part)
        for x, y in self._load(part, self._index[part], batch_size, 0):
            yield self._prepare.plain(x), y

    def balanced(self, per_class: int, seed: int) -> Pair:
        """Returns (x, y) of `per_class` random training items of each class, class by class."""
        labels = self._labels
        if labels is None:
            labels = torch.cat([y.cpu() for _, y in self._load("train", self._index["train"], 256, 0)])
        chosen = [self._index["train"][i] for i in class_balanced(labels, self.classes, per_class, seed).tolist()]
        return self._chosen(chosen)

    def sample(self, number: int, seed: int) -> Pair:
        """Returns (x, y) of `number` random training items."""
        return self._chosen([self._index["train"][i] for i in drawn(self.sizes["train"], number, seed).tolist()])

    def example(self) -> Tensor:
        """Returns x [1, ...] of the first training item."""
        return self.first()[0]

    def first(self) -> Pair:
        """Returns (x [1, ...], y [1]) of the first training item."""
        return self._chosen(self._index["train"][:1])

    def _chosen(self, indices: list[int]) -> Pair:
        x, y = self._loader.some("train", indices, 0)
        return self._prepare.plain(x.to(self._device)), y.to(self._device)

    def _check(self, part: str, first: Tensor) -> None:
        if not self._index[part]:
            return
        x = self._loader.some(part, self._index[part][:1], 0)[0]
        what = f"{self._items[part].what}, item {self._index[part][0]}"
        if x.is_floating_point() and not finite(x):
            raise PlanError(f"{what} has values that are not finite")
        if x.shape != first.shape or x.dtype != first.dtype:
            raise PlanError(
                f"{what} is {list(x.shape[1:])} {x.dtype}, the first of train {list(first.shape[1:])} {first.dtype}"
            )

    def _load(self, part: str, indices: list[int], batch_size: int, base: int) -> Iterator[Pair]:
        return self._loader.load(part, indices, batch_size, base, lambda y: self._in_range(part, y))

    def _in_range(self, part: str, y: Tensor) -> None:
        if int(y.min()) < 0 or int(y.max()) >= self.classes:
            raise PlanError(f"{self._items[part].what}: a label is outside 0 to {self.classes - 1}")


def _pair(what: str, given: Any) -> Pair:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise PlanError(f"{what} must be a pair (x, y), not {type(given).__name__}")
    try:
        x, y = torch.as_tensor(given[0]), torch.as_tensor(given[1])
    except (TypeError, ValueError, RuntimeError):
        kinds = " and ".join(type(value).__name__ for value in given)
        raise PlanError(f"{what} must be a tensor or array and an integer label, not {kinds}") from None
    if y.dim() != 0 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise PlanError(f"{what}: the label must be one integer, not {list(y.shape)} {y.dtype}")
    return (x.float() if x.is_floating_point() else x), y.long()
