"""A data set held as tensors on the training device: shuffled, augmented and normalized there, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pruning import seeds
from pruning.data import transforms
from pruning.data.source import Pair, Source
from pruning.plan import PlanError

PARTS = ("train", "validation", "test")
AT_ONCE = 2**22  # values prepared in one go, so that a GPU launches the dozen kernels for many batches together


class TensorData:
    """A data set on `device`: uint8 images stay uint8 until their batch is made."""

    def __init__(
        self, name: str, source: Source, *, augment: str, normalize: str, padding: int, device: torch.device | str
    ) -> None:
        self.name = name
        self.classes = source.classes
        self.shape = tuple(source.train[0].shape[1:])  # (C, H, W) for images
        self._device = torch.device(device)
        empty: Pair = (source.train[0][:0], source.train[1][:0])
        pairs = (source.train, source.validation or empty, source.test)
        self._parts = {part: (x.to(device), y.to(device)) for part, (x, y) in zip(PARTS, pairs, strict=True)}
        self.sizes = {part: len(y) for part, (_, y) in self._parts.items()}
        augment = source.augment if augment == "default" else augment
        self._crop, self._flip = augment.startswith("crop"), augment.endswith("flip")
        self._padding = padding
        if augment != "none" and len(self.shape) != 3:
            raise PlanError(
                f"augment '{augment}' needs images [C, H, W]; data '{name}' has values of {list(self.shape)}"
            )
        self._normalize = normalize
        self._affine = self._constants(source, normalize)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of training batches in an epoch; the last may be short."""
        return math.ceil(self.sizes["train"] / batch_size)

    def train_batches(self, batch_size: int, epoch: int, seed: int) -> Iterator[Pair]:
        """Returns an iterator over the epoch's batches (x [B, ...] float32, y [B] int64), shuffled and augmented.

        Order and augmentation follow from `seed` and `epoch` alone, and are drawn on the CPU: the same on every device.
        """
        images, labels = self._parts["train"]
        n, span = len(labels), 2 * self._padding + 1
        order = torch.randperm(n, generator=seeds.generator(seed, "order", epoch)).to(self._device)
        draw = seeds.generator(seed, "augment", epoch)
        place = torch.randint(span, (2, n), generator=draw).to(self._device)
        mirrored = (torch.rand(n, generator=draw) < 0.5).to(self._device)
        stride = batch_size * max(1, AT_ONCE // (batch_size * math.prod(self.shape)))
        for start in range(0, n, stride):
            now = slice(start, start + stride)
            index = order[now]
            x = images[index]
            if self._crop:
                x = transforms.crop(x, place[0, now], place[1, now], self._padding)
            if self._flip:
                x = transforms.flip(x, mirrored[now])
            yield from zip(self._finish(x).split(batch_size), labels[index].split(batch_size), strict=True)

    def batches(self, part: str, batch_size: int) -> Iterator[Pair]:
        """Returns an iterator over a part's batches in fixed order, without augmentation; the last may be short."""
        if part not in PARTS:
            raise PlanError(f"part '{part}' is unknown; allowed: {', '.join(PARTS)}")
        for x, y in zip(*(t.split(batch_size) for t in self._parts[part] if len(t)), strict=True):
            yield self._finish(x), y

    def balanced(self, per_class: int, seed: int) -> Pair:
        """Returns (x, y) of `per_class` random training images of each class, class by class, without augmentation."""
        images, labels = self._parts["train"]
        index = class_balanced(labels.cpu(), self.classes, per_class, seed).to(self._device)
        return self._finish(images[index]), labels[index]

    def example(self) -> Tensor:
        """Returns x [1, ...] of the first training image."""
        return self._finish(self._parts["train"][0][:1])

    def _finish(self, x: Tensor) -> Tensor:
        if not (x.is_floating_point() or x.dtype == torch.uint8):
            return x  # indices, such as a text's tokens
        x = x.float()
        if self._normalize == "image":
            return transforms.standardize(x)
        return x if self._affine is None else torch.addcmul(self._affine[1], x, self._affine[0])

    def _constants(self, source: Source, normalize: str) -> tuple[Tensor, Tensor] | None:
        x = source.train[0]
        dims = len(self.shape)
        if normalize in ("channel", "image") and not (x.is_floating_point() or x.dtype == torch.uint8):
            raise PlanError(f"normalize '{normalize}' needs images or numbers; data '{self.name}' holds {x.dtype}")
        if normalize == "image":
            return None
        if normalize == "none" or (normalize == "default" and source.mean is None):
            if source.scale == 1.0:
                return None
            mean, std = torch.zeros(1), torch.ones(1)
        elif source.mean is not None and source.std is not None:
            mean, std = torch.tensor(source.mean), torch.tensor(source.std)
        else:
            mean, std = transforms.channel_statistics(x, source.scale)
            if not bool((std > 0).all()):
                raise PlanError(
                    f"normalize 'channel': a channel of data '{self.name}' is constant; choose image or none"
                )
        a, b = transforms.affine(mean.double(), std.double(), source.scale, dims)
        return a.to(self._device), b.to(self._device)


def class_balanced(labels: Tensor, classes: int, per_class: int, seed: int) -> Tensor:  # labels [n] -> [classes * k]
    """Returns the indices of `per_class` entries of each class, drawn at random, class by class."""
    order = torch.randperm(len(labels), generator=seeds.generator(seed, "balanced"))
    chosen = []
    for c in range(classes):
        of_class = order[labels[order] == c]
        if len(of_class) < per_class:
            raise PlanError(f"a sample of {per_class} images per class is asked for; class {c} has {len(of_class)}")
        chosen.append(of_class[:per_class])
    return torch.cat(chosen)
