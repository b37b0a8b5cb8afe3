"""VGGs for small images: 3x3 convolutions with normalization, five poolings, one linear layer or two.

VGG-16 has 14,715,584 weights on CIFAR-10. The forms in circulation differ in details that are options here: Renda et
al. have convolutions without bias (the default), Zimmer et al. and Frankle et al. with; Frankle et al. pool by the
average in the end, the others by the maximum. With two linear layers, 512 units between them, VGG-16 is the VGG2-16 of
Frankle et al. (Table 1), 14,977,728 weights on CIFAR-10.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pruning.models.lenet import scaled
from pruning.models.shapes import Shape
from pruning.plan import PlanError, suggest

# depth -> convolutions in each of the five stages, of 64, 128, 256, 512 and 512 channels (Simonyan & Zisserman 2015)
STAGES = {
    "11": (1, 1, 2, 2, 2),
    "13": (2, 2, 2, 2, 2),
    "16": (2, 2, 3, 3, 3),
    "19": (2, 2, 4, 4, 4),
}
POOLS = ("max", "avg")


class Convolution(nn.Module):
    """A 3x3 convolution, normalization and ReLU."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H, W]
        return F.relu(self.bn(self.conv(x)))


class VGG(nn.Module):
    """Five stages, each but for a map of one pixel followed by 2x2 pooling, then the mean over what pixels are left."""

    def __init__(
        self,
        stages: tuple[int, ...],
        shape: Shape,
        classes: int,
        width: float,
        bias: bool,
        last_pool: str,
        linear_layers: int,
    ) -> None:
        super().__init__()
        channels, side = shape[0], min(shape[1:])
        layers: list[nn.Module] = []
        for i, count in enumerate(stages):
            outputs = scaled(64 * 2 ** min(i, 3), width)
            for _ in range(count):
                layers.append(Convolution(channels, outputs, bias))
                channels = outputs
            if side > 1:
                layers.append(nn.AvgPool2d(2) if i == 4 and last_pool == "avg" else nn.MaxPool2d(2))
                side //= 2
        self.features = nn.Sequential(*layers)
        units = scaled(512, width)
        self.hidden = nn.Sequential(nn.Linear(channels, units), nn.ReLU()) if linear_layers == 2 else nn.Identity()
        self.fc = nn.Linear(channels if linear_layers == 1 else units, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, classes]
        return self.fc(self.hidden(self.features(x).mean((2, 3))))


def vgg(
    depth: str,
    shape: Shape,
    classes: int,
    *,
    width: float = 1.0,
    bias: bool = False,
    last_pool: str = "max",
    linear_layers: int = 1,
) -> nn.Module:
    """Returns VGG-`depth`, named after ImageNet's: VGG-16 has 13 convolutions, and here one or two linear layers, not three."""
    if depth not in STAGES:
        allowed = [f"vgg{d}" for d in STAGES]
        raise PlanError(
            f"model 'vgg{depth}' is unknown{suggest(f'vgg{depth}', allowed)}; allowed: {', '.join(allowed)}"
        )
    if last_pool not in POOLS:
        raise PlanError(f"last_pool '{last_pool}' is unknown{suggest(last_pool, POOLS)}; allowed: {', '.join(POOLS)}")
    if linear_layers not in (1, 2):
        raise PlanError(f"linear_layers must be 1 or 2, not {linear_layers}")
    return VGG(STAGES[depth], shape, classes, width, bias, last_pool, linear_layers)
