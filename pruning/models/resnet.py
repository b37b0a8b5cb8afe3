"""ResNet-18 and ResNet-34 (He et al. 2016) for small images: four stages of basic blocks with projection shortcuts.

    stem=3x3    3x3 convolution, stride 1, no pooling: the form for CIFAR, and the "modified" one for TinyImageNet
    stem=7x7    7x7 convolution, stride 2, then 3x3 maximum of stride 2: the form for ImageNet

ResNet-18 has 11,164,352 weights on CIFAR-10 (3x3); on TinyImageNet 11,269,312 (7x7) or 11,261,632 (3x3).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pruning.models.lenet import scaled
from pruning.models.resnet_cifar import silent, stage
from pruning.models.shapes import Shape
from pruning.plan import PlanError, suggest

BLOCKS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}
STEMS = ("3x3", "7x7")


class ResNet(nn.Module):
    """A stem, four stages at falling resolution, the mean over all pixels, one linear layer."""

    def __init__(self, blocks: tuple[int, ...], shape: Shape, classes: int, stem: str, width: float) -> None:
        super().__init__()
        first, second, third, fourth = (scaled(n, width) for n in (64, 128, 256, 512))
        kernel, stride = (3, 1) if stem == "3x3" else (7, 2)
        self.conv1 = nn.Conv2d(shape[0], first, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.pool = nn.Identity() if stem == "3x3" else nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(first, first, 1, blocks[0], "B")
        self.layer2 = stage(first, second, 2, blocks[1], "B")
        self.layer3 = stage(second, third, 2, blocks[2], "B")
        self.layer4 = stage(third, fourth, 2, blocks[3], "B")
        self.fc = nn.Linear(fourth, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, classes]
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def resnet(
    depth: str, shape: Shape, classes: int, *, stem: str = "3x3", width: float = 1.0, zero_last_gamma: bool = False
) -> nn.Module:
    """Returns the ResNet of `depth` 18 or 34, with `width` times 64, 128, 256 and 512 channels.

    With `zero_last_gamma` each block starts as its shortcut (:func:`pruning.models.resnet_cifar.silent`).
    """
    if stem not in STEMS:
        raise PlanError(f"stem '{stem}' is unknown{suggest(stem, STEMS)}; allowed: {', '.join(STEMS)}")
    return silent(ResNet(BLOCKS[depth], shape, classes, stem, width), zero_last_gamma)
