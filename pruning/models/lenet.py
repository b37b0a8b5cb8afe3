"""LeNets: fully connected networks of any hidden sizes, and LeNet-5 as the pruning literature has it."""

from __future__ import annotations

import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn

from pruning.models.shapes import Shape
from pruning.plan import PlanError


class Perceptron(nn.Module):
    """A fully connected network on the flattened image; LeNet-300-100 has hidden layers of 300 and 100 units."""

    def __init__(self, shape: Shape, hidden: list[int], classes: int) -> None:
        super().__init__()
        sizes = [math.prod(shape), *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.fc = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, classes]
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.fc(x)


class LeNet5(nn.Module):
    """Two 5x5 convolutions of 20 and 50 filters, each with a 2x2 maximum, then 500 units: 430,500 weights on 1x28x28.

    This is the form of Han et al. 2015 and Lee et al. 2019 (from Caffe), not LeCun's of 1998. Convolutions are
    unpadded; images below 16 pixels, which two of them would use up, are padded by 2.
    """

    def __init__(self, shape: Shape, classes: int, width: float) -> None:
        super().__init__()
        channels, height, length = shape
        first, second, units = (scaled(n, width) for n in (20, 50, 500))
        padding = 2 if min(height, length) < 16 else 0
        self.conv1 = nn.Conv2d(channels, first, 5, padding=padding)
        self.conv2 = nn.Conv2d(first, second, 5, padding=padding)
        h, w = (((n - 4 + 2 * padding) // 2 - 4 + 2 * padding) // 2 for n in (height, length))
        self.fc1 = nn.Linear(second * h * w, units)
        self.fc2 = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, classes]
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def scaled(channels: int, width: float) -> int:
    """Returns `width` times the channels, rounded, at least 1."""
    if not 0 < width < math.inf:
        raise PlanError(f"width must be a number above 0, not {width:g}")
    return max(1, round(channels * width))


def perceptron(sizes: str, shape: Shape, classes: int, *, width: float = 1.0) -> nn.Module:
    """Returns a fully connected network with hidden layers of `sizes`, "300-100", times `width`."""
    return Perceptron(shape, [scaled(int(n), width) for n in sizes.split("-")], classes)


def lenet5(shape: Shape, classes: int, *, width: float = 1.0) -> nn.Module:
    """Returns LeNet-5 with `width` times its filters and units."""
    return LeNet5(shape, classes, width)
