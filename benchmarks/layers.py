"""Weight shapes of three networks (convolutions and linear layers), and weights of the size that training starts from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shapes = list[tuple[int, ...]]


def resnet56() -> Shapes:
    """Returns the shapes of CIFAR's ResNet-56: 848,944 weights in 56 tensors."""
    shapes: Shapes = [(16, 3, 3, 3)]
    channels = 16
    for width in (16, 32, 64):
        for _ in range(9):
            shapes += [(width, channels, 3, 3), (width, width, 3, 3)]
            channels = width
    return [*shapes, (10, 64)]


def resnet50() -> Shapes:
    """Returns the shapes of ImageNet's ResNet-50: 25,502,912 weights in 54 tensors."""
    shapes: Shapes = [(64, 3, 7, 7)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                shapes.append((4 * width, channels, 1, 1))
            channels = 4 * width
    return [*shapes, (1000, 2048)]


def vgg16() -> Shapes:
    """Returns the shapes of ImageNet's VGG-16: 138,344,128 weights in 16 tensors."""
    plan = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    convolutions: Shapes = [(out, into, 3, 3) for into, out in zip((3, *plan), plan, strict=False)]
    return [*convolutions, (4096, 25088), (4096, 4096), (1000, 4096)]


def large() -> Shapes:
    """Returns 165 million weights in 24 square tensors and one odd one, for bandwidth on a GPU."""
    return [*[(2560, 2560)] * 24, (2560, 3000)]


NETWORKS = {"resnet56": resnet56, "resnet50": resnet50, "vgg16": vgg16, "large": large}


def weights(shapes: Shapes, device: str = "cpu", seed: int = 0) -> list[Tensor]:
    """Returns He-normal weights of the shapes."""
    g = torch.Generator(device=device).manual_seed(seed)
    return [torch.randn(s, generator=g, device=device) * math.sqrt(2 / math.prod(s[1:])) for s in shapes]
