"""Wide ResNets, WRN-depth-width, in the two meanings that the name has in the literature.

Depth 6n+4 is Zagoruyko & Komodakis 2016: normalization and ReLU before each convolution, n blocks in each of three
stages, 16, 32 and 64 channels times the width. Its `form`:

    standard     convolutions without bias, the stride on a block's first one, shortcuts from the activated input
    meliketoy    convolutions with bias, the stride on a block's second one, shortcuts from the input as it is, the last
                 normalization with momentum .9: the widespread PyTorch copy, as Zimmer et al. use it (with dropout .3)

Depth 6n+2 is the CIFAR ResNet of that depth with B shortcuts and as many times its channels: Frankle et al. count so,
their WRN-14-8 and WRN-20-8 are Lee et al.'s WRN-16-8 and WRN-22-8, and WRN-32-2 is the wide ResNet-32 of Wang et al.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pruning.models.lenet import scaled
from pruning.models.resnet_cifar import CifarResNet
from pruning.models.shapes import Shape
from pruning.plan import PlanError, suggest

FORMS = ("standard", "meliketoy")


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after normalization and ReLU, and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float, form: str) -> None:
        super().__init__()
        self.activated = form == "standard" and inputs != outputs
        bias = form == "meliketoy"
        strides = (1, stride) if form == "meliketoy" else (stride, 1)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, strides[0], padding=1, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, strides[1], padding=1, bias=bias)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, ceil(H / stride), ceil(W / stride)]
        active = F.relu(self.bn1(x))
        out = self.dropout(self.conv1(active))
        out = self.conv2(F.relu(self.bn2(out)))
        return out + self.shortcut(active if self.activated else x)


class WideResNet(nn.Module):
    """A 3x3 stem of 16 channels, three stages of wide blocks, normalization, the mean over pixels, one linear layer."""

    def __init__(self, blocks: int, width: float, shape: Shape, classes: int, dropout: float, form: str) -> None:
        super().__init__()
        channels = 16
        self.conv1 = nn.Conv2d(shape[0], channels, 3, padding=1, bias=form == "meliketoy")
        layers = []
        for base, stride in ((16, 1), (32, 2), (64, 2)):
            outputs = scaled(base, width)
            steps = [(channels, stride)] + [(outputs, 1)] * (blocks - 1)
            layers.append(nn.Sequential(*(WideBlock(c, outputs, s, dropout, form) for c, s in steps)))
            channels = outputs
        self.layer1, self.layer2, self.layer3 = layers
        self.bn = nn.BatchNorm2d(channels, momentum=0.9 if form == "meliketoy" else 0.1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, classes]
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(F.relu(self.bn(x)).mean((2, 3)))


def wide_resnet(
    depth: str, width: str, shape: Shape, classes: int, *, dropout: float = 0.0, form: str = "standard"
) -> nn.Module:
    """Returns WRN-depth-width; dropout and form are of depths 6n+4 only."""
    n, rest = divmod(int(depth) - 2, 6)
    if n < 1 or rest not in (0, 2) or int(width) < 1:
        raise PlanError(f"model 'wrn-{depth}-{width}': wide ResNets have 6n+4 layers (6n+2 as Frankle et al. count)")
    if form not in FORMS:
        raise PlanError(f"form '{form}' is unknown{suggest(form, FORMS)}; allowed: {', '.join(FORMS)}")
    if not 0 <= dropout < 1:
        raise PlanError(f"dropout must be from 0 to below 1, not {dropout:g}")
    if rest == 0:
        if dropout or form != "standard":
            raise PlanError(f"model 'wrn-{depth}-{width}' has 6n+2 layers, and so neither dropout nor form")
        return CifarResNet(n, shape, classes, "B", float(width))
    return WideResNet(n, float(width), shape, classes, dropout, form)
