"""From stored values to a network's input: crop, flip, rotation and normalization of a batch, in this order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning import seeds
from pruning.data import transforms
from pruning.plan import PlanError, suggest

AUGMENT = ("default", "none", "crop-flip", "crop", "rotate-crop-flip")
LARGEST_ANGLE = 15.0  # degrees, of rotate-crop-flip: Zimmer et al. 2023 for CIFAR-100
NORMALIZE = ("default", "channel", "image", "none")
Affine = tuple[Tensor, Tensor]
Draws = tuple[Tensor, Tensor, Tensor | None]  # places [2, n] of the crops, mirrored [n], angles [n] on the CPU


@dataclass(frozen=True)
class Preparation:
    """What is done to each batch, on the device where it is; `affine` (a, b) makes a x + b of the stored values."""

    crop: bool
    flip: bool
    rotate: bool
    padding: int
    per_image: bool
    affine: Affine | None

    def draw(self, n: int, seed: int, epoch: int, device: torch.device) -> Draws:
        """Returns the epoch's random choices for n images, drawn on the CPU: the same on any device."""
        generator = seeds.generator(seed, "augment", epoch)
        places = torch.randint(2 * self.padding + 1, (2, n), generator=generator)
        mirrored = torch.rand(n, generator=generator) < 0.5
        angles = (2 * torch.rand(n, generator=generator) - 1) * LARGEST_ANGLE if self.rotate else None
        return places.to(device), mirrored.to(device), angles

    def train(self, x: Tensor, draws: Draws, now: slice) -> Tensor:  # [B, C, H, W] -> the same
        """Returns the batch augmented with the choices of the epoch's images `now`, and normalized."""
        places, mirrored, angles = draws
        if self.crop:
            x = transforms.crop(x, places[0, now], places[1, now], self.padding)
        if self.flip:
            x = transforms.flip(x, mirrored[now])
        if angles is not None:
            x = transforms.rotate(x, angles[now])
        return self.plain(x)

    def plain(self, x: Tensor) -> Tensor:  # [B, ...] -> the same, float32 unless x holds indices
        """Returns the batch normalized and no more; indices, such as a text's tokens, stay as they are."""
        if not numeric(x):
            return x
        x = x.float()
        if self.per_image:
            return transforms.standardize(x)
        return x if self.affine is None else torch.addcmul(self.affine[1], x, self.affine[0])


def numeric(x: Tensor) -> bool:
    """Returns whether x holds numbers or uint8 images rather than indices."""
    return x.is_floating_point() or x.dtype == torch.uint8


def prepare(
    name: str,
    example: Tensor,  # [1, ...] as stored
    *,
    augment: str,
    normalize: str,
    padding: int,
    scale: float,
    constants: Callable[[], Affine] | None,
    default: str,
    device: torch.device,
) -> Preparation:
    """Returns the preparation that the settings ask for; raises PlanError where the data cannot be prepared so.

    `constants` gives mean and deviation per channel, [C] of x / scale, for normalize "channel"; `default` is what
    normalize "default" means.
    """
    for key, value, allowed in (("augment", augment, AUGMENT), ("normalize", normalize, NORMALIZE)):
        if value not in allowed:
            raise PlanError(f"{key} '{value}' is unknown{suggest(value, allowed)}; allowed: {', '.join(allowed)}")
    what = f"data '{name}' has values of {list(example.shape[1:])} {example.dtype}"
    if augment not in ("default", "none") and not (example.dim() == 4 and numeric(example)):
        raise PlanError(f"augment '{augment}' needs images [C, H, W]; {what}")
    normalize = default if normalize == "default" else normalize
    if normalize != "none" and not numeric(example):
        raise PlanError(f"normalize '{normalize}' needs images or numbers; {what}")
    affine = None
    if normalize == "channel":
        if constants is None:
            raise PlanError(f"normalize 'channel' is for tensors; data '{name}' is a data set, whose items can do it")
        mean, std = constants()
        if not bool((std > 0).all()):
            raise PlanError(f"normalize 'channel': a channel of data '{name}' is constant; choose image or none")
        affine = transforms.affine(mean, std, scale, example.dim() - 1)
    elif normalize == "none" and scale != 1.0:
        affine = transforms.affine(torch.zeros(1), torch.ones(1), scale, example.dim() - 1)
    if affine is not None:
        affine = (affine[0].to(device), affine[1].to(device))
    kinds = augment.split("-")
    crop, flip, rotate = (kind in kinds for kind in ("crop", "flip", "rotate"))
    return Preparation(crop, flip, rotate, padding, normalize == "image", affine)
