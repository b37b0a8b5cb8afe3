"""A data set held as tensors on the training device: shuffled, augmented and normalized there, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pruning import seeds
from pruning.data import transforms
from pruning.data.preparation import Affine, prepare
from pruning.data.source import PARTS, Pair, Source, check_part, class_balanced, drawn

AT_ONCE = 2**22  # values prepared in one go, so that a GPU launches the dozen kernels for many batches together


class TensorData:
    """A data set on `device`: uint8 images stay uint8 until their batch is made."""

    def __init__(
        self, name: str, source: Source, *, augment: str, normalize: str, padding: int, device: torch.device | str
    ) -> None:
        self.name = name
        self.task = "classification"
        self.classes = source.classes
        self.shape = tuple(source.train[0].shape[1:])  # (C, H, W) for images
        self._device = torch.device(device)
        empty: Pair = (source.train[0][:0], source.train[1][:0])
        pairs = (source.train, source.validation or empty, source.test)
        self._parts = {part: (x.to(device), y.to(device)) for part, (x, y) in zip(PARTS, pairs, strict=True)}
        self.sizes = {part: len(y) for part, (_, y) in self._parts.items()}
        self._prepare = prepare(
            name,
            source.train[0][:1],
            augment=source.augment if augment == "default" else augment,
            normalize=normalize,
            padding=padding,
            scale=source.scale,
            constants=lambda: _constants(source),
            default="channel" if source.mean is not None else "none",
            device=self._device,
        )

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of training batches in an epoch; the last may be short."""
        return math.ceil(self.sizes["train"] / batch_size)

    def train_batches(self, batch_size: int, epoch: int, seed: int) -> Iterator[Pair]:
        """Returns an iterator over the epoch's batches (x [B, ...] float32, y [B] int64), shuffled and augmented.

        Order and augmentation follow from `seed` and `epoch` alone, and are the same on every device.
        """
        images, labels = self._parts["train"]
        n = len(labels)
        order = torch.randperm(n, generator=seeds.generator(seed, "order", epoch)).to(self._device)
        draws = self._prepare.draw(n, seed, epoch, self._device)
        stride = batch_size * max(1, AT_ONCE // (batch_size * math.prod(self.shape)))
        for start in range(0, n, stride):
            now = slice(start, start + stride)
            x = self._prepare.train(images[order[now]], draws, now)
            yield from zip(x.split(batch_size), labels[order[now]].split(batch_size), strict=True)

    def batches(self, part: str, batch_size: int) -> Iterator[Pair]:
        """Returns an iterator over a part's batches in fixed order, without augmentation; the last may be short."""
        check_part(part)
        images, labels = self._parts[part]
        for start in range(0, len(labels), batch_size):
            now = slice(start, start + batch_size)
            yield self._prepare.plain(images[now]), labels[now]

    def balanced(self, per_class: int, seed: int) -> Pair:
        """Returns (x, y) of `per_class` random training images of each class, class by class, without augmentation."""
        images, labels = self._parts["train"]
        index = class_balanced(labels.cpu(), self.classes, per_class, seed).to(self._device)
        return self._prepare.plain(images[index]), labels[index]

    def sample(self, number: int, seed: int) -> Pair:
        """Returns (x, y) of `number` random training images, without augmentation."""
        images, labels = self._parts["train"]
        index = drawn(len(labels), number, seed).to(self._device)
        return self._prepare.plain(images[index]), labels[index]

    def example(self) -> Tensor:
        """Returns x [1, ...] of the first training image."""
        return self.first()[0]

    def first(self) -> Pair:
        """Returns (x [1, ...], y [1]) of the first training image."""
        images, labels = self._parts["train"]
        return self._prepare.plain(images[:1]), labels[:1]


def _constants(source: Source) -> Affine:
    if source.mean is not None and source.std is not None:
        return torch.tensor(source.mean, dtype=torch.float64), torch.tensor(source.std, dtype=torch.float64)
    return transforms.channel_statistics(source.train[0], source.scale)
