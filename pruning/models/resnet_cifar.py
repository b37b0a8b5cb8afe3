"""The CIFAR ResNets of He et al. 2016 (section 4.2): 6n+2 layers, three stages of n blocks, three kinds of shortcut.

    A    subsampled, zero channels on both sides where the shape changes; no weights           R20 268,336 weights
    B    1x1 convolution and normalization where the shape changes                              R20 270,896
    TF   1x1 convolution and normalization in the first block of every stage, also the first    R20 271,152

A is the paper's own and Zimmer et al.'s, B is Frankle et al.'s, TF is the TensorFlow model garden's and Renda et al.'s.
Normalization follows each convolution, before the activation; convolutions have no bias.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pruning.models.lenet import scaled
from pruning.models.shapes import Shape
from pruning.plan import PlanError, suggest

SHORTCUTS = ("A", "B", "TF")
IMAGENET = ("50", "101", "152")


class Pad(nn.Module):
    """Option A's shortcut: every `stride`-th pixel, with zero channels added on both sides; it has no weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before, self.after = (outputs - inputs) // 2, (outputs - inputs + 1) // 2

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, ceil(H / stride), ceil(W / stride)]
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """Two 3x3 convolutions with normalization, and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, ceil(H / stride), ceil(W / stride)]
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages at full, half and quarter resolution, the mean over all pixels, one linear layer."""

    def __init__(self, blocks: int, shape: Shape, classes: int, shortcut: str, width: float) -> None:
        super().__init__()
        first, second, third = (scaled(n, width) for n in (16, 32, 64))
        self.conv1 = nn.Conv2d(shape[0], first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = stage(first, first, 1, blocks, shortcut)
        self.layer2 = stage(first, second, 2, blocks, shortcut)
        self.layer3 = stage(second, third, 2, blocks, shortcut)
        self.fc = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, classes]
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def stage(inputs: int, outputs: int, stride: int, blocks: int, shortcut: str) -> nn.Sequential:
    """Returns the blocks of one stage, the first of which changes resolution and channels."""
    around: nn.Module = nn.Identity()
    if shortcut == "TF" or (shortcut == "B" and (stride != 1 or inputs != outputs)):
        around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    elif stride != 1 or inputs != outputs:
        around = Pad(inputs, outputs, stride)
    rest = [Block(outputs, outputs, 1, nn.Identity()) for _ in range(blocks - 1)]
    return nn.Sequential(Block(inputs, outputs, stride, around), *rest)


def silent(model: nn.Module, wanted: bool) -> nn.Module:
    """Returns the model; where `wanted`, the last gamma of each block is 0, so that the block starts as its shortcut.

    Goyal et al. 2017 (section 5.1) start so, as do the ImageNet ResNets of Renda et al. 2020.
    """
    for module in model.modules() if wanted else ():
        if isinstance(module, Block):
            nn.init.zeros_(module.bn2.weight)
    return model


def resnet_cifar(
    depth: str,
    shape: Shape,
    classes: int,
    *,
    shortcut: str = "A",
    width: float = 1.0,
    zero_last_gamma: bool = False,
) -> nn.Module:
    """Returns the CIFAR ResNet of `depth` = 6n+2 layers, with `width` times 16, 32 and 64 channels.

    With `zero_last_gamma` each block starts as its shortcut (:func:`silent`).
    """
    n, rest = divmod(int(depth) - 2, 6)
    if rest or n < 1 or depth in IMAGENET:  # 50 and 152 are 6n+2 as well, but everybody means others by them
        hint = f"; torchvision:resnet{depth} is the ImageNet network" if depth in IMAGENET else ""
        raise PlanError(
            f"model 'resnet{depth}': CIFAR ResNets have 6n+2 layers, such as resnet{6 * max(n, 1) + 2}{hint}"
        )
    if shortcut not in SHORTCUTS:
        near_name = suggest(shortcut, SHORTCUTS)
        raise PlanError(f"shortcut '{shortcut}' is unknown{near_name}; allowed: {', '.join(SHORTCUTS)}")
    return silent(CifarResNet(n, shape, classes, shortcut, width), zero_last_gamma)
