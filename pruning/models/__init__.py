"""Networks by name, or by a function of the user's own, with the initialization that a plan asks for."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from pruning import seeds, usercode
from pruning.layers import CHANNEL_NORMS, WEIGHTED
from pruning.models.check import check
from pruning.models.lenet import lenet5, perceptron
from pruning.models.libraries import timm_model, torchvision_model, transformers_model
from pruning.models.resnet import resnet
from pruning.models.resnet_cifar import resnet_cifar
from pruning.models.vgg import vgg
from pruning.models.wide_resnet import wide_resnet
from pruning.plan import PlanError, suggest

MODELS: dict[str, str] = {
    "lenet-300-100": "fully connected, hidden layers of 300 and 100 units; lenet-A-B-... for others",
    "lenet-5": "two 5x5 convolutions and two linear layers (Han et al. 2015)",
    "resnet20": "CIFAR ResNet (He et al. 2016); resnet{6n+2} for any depth; options shortcut=A|B|TF, width, zero_last_gamma",
    "resnet32": "CIFAR ResNet, 32 layers",
    "resnet44": "CIFAR ResNet, 44 layers",
    "resnet56": "CIFAR ResNet, 56 layers",
    "resnet110": "CIFAR ResNet, 110 layers",
    "resnet18": "ResNet-18 for small images; options stem=3x3|7x7, width, zero_last_gamma",
    "resnet34": "ResNet-34 for small images; options stem=3x3|7x7, width, zero_last_gamma",
    "vgg11": "VGG-11 with normalization; options width, bias, last_pool=max|avg, linear_layers=1|2",
    "vgg13": "VGG-13 like it",
    "vgg16": "VGG-16 like it",
    "vgg19": "VGG-19 like it",
    "wrn-16-8": "Wide ResNet of 16 layers, 8 times as wide; wrn-DEPTH-WIDTH for others; options dropout, form",
    "wrn-22-8": "Wide ResNet of 22 layers, 8 times as wide",
    "wrn-28-10": "Wide ResNet of 28 layers, 10 times as wide; form=meliketoy as Zimmer et al. have it",
    "wrn-14-8": "ResNet-14 with 8 times its channels: Frankle et al.'s replica of wrn-16-8",
    "wrn-20-8": "ResNet-20 with 8 times its channels: Frankle et al.'s replica of wrn-22-8",
    "wrn-32-2": "ResNet-32 with twice its channels (Wang et al. 2020)",
}

# name pattern -> builder; the pattern's groups come first in its arguments, its keyword-only arguments are the options
FAMILIES: tuple[tuple[str, Callable[..., nn.Module]], ...] = (
    (r"lenet-5", lenet5),
    (r"lenet-(\d+(?:-\d+)+)", perceptron),
    (r"resnet(18|34)", resnet),
    (r"resnet(\d+)", resnet_cifar),
    (r"vgg(\d+)", vgg),
    (r"wrn-(\d+)-(\d+)", wide_resnet),
    (r"torchvision:(.*)", torchvision_model),
    (r"timm:(.*)", timm_model),
    (r"transformers:(.*)", transformers_model),
)


def build(
    name: str,
    shape: Any,
    classes: int,
    *,
    options: Mapping[str, Any] | None = None,
    weight_init: str = "default",
    norm_init: str = "default",
    seed: int,
    trial: Callable[[nn.Module, str], None] | None = None,
) -> nn.Module:
    """Returns the network `name` for examples of `shape`, (C, H, W) of images, and `classes` outputs, on the CPU, in training mode.

    Its weights depend on `seed` alone; the global generators are left as they were. A user's function is called with
    those of `shape`, `classes` and the options that its signature accepts. The network is tried on two blank images, or as
    `trial` (network, what it is) does.
    """
    what = f"model '{name}'"
    if norm_init != "default" and (options or {}).get("zero_last_gamma"):
        raise PlanError(f"norm_init '{norm_init}' would set the gammas that zero_last_gamma starts from 0; choose one")
    with usercode.seeded(seeds.derive(seed, "init")), torch.device("cpu"):
        offered = {"shape": shape if isinstance(shape, Mapping) else tuple(shape), "classes": classes}
        if usercode.is_code(name):
            model = usercode.call(what, usercode.load(name), offered, options or {})
        else:
            model = usercode.call(what, family(name), offered, options or {}, typed=True)
        if not isinstance(model, nn.Module):
            raise PlanError(f"{what} must be a torch.nn.Module; the function returned {type(model).__name__}")
        if trial is None:
            check(model, tuple(shape), classes, what)
        else:
            trial(model, what)
    with usercode.seeded(seeds.derive(seed, "init", "drawn anew")):
        initialize(model, weight_init, norm_init)
    return model.train()


def initialize(model: nn.Module, weight_init: str, norm_init: str) -> None:
    """Returns nothing; draws the weights of convolutions and linear layers, and the gammas of normalizations, anew.

    he-normal-fan-in and -fan-out: N(0, 2 / fan) (He et al. 2015, equations 10 and 14); biases stay as they are.
    norm_init one: gamma 1, uniform: gamma from U(0, 1); beta 0 in both. "default" leaves what the constructor drew.
    """
    for module in model.modules():
        if isinstance(module, WEIGHTED) and weight_init != "default":
            fan: Literal["fan_in", "fan_out"] = "fan_in" if weight_init == "he-normal-fan-in" else "fan_out"
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
        if (
            isinstance(module, (*CHANNEL_NORMS, nn.GroupNorm, nn.LayerNorm))
            and norm_init != "default"
            and module.weight is not None
        ):
            nn.init.ones_(module.weight) if norm_init == "one" else nn.init.uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def family(name: str) -> Callable[..., nn.Module]:
    """Returns the function of (shape, classes, options) that builds the network `name`; raises PlanError for others."""
    for pattern, builder in FAMILIES:
        match = re.fullmatch(pattern, name)
        if match and ":" not in name:
            _check_sizes(name)
        if match:
            return functools.partial(builder, *match.groups())
    raise PlanError(
        f"model '{name}' is unknown{suggest(name, MODELS)}; allowed: {', '.join(MODELS)}, "
        "torchvision:NAME, timm:NAME, transformers:FOLDER, file.py:function or package.module:function"
    )


def _check_sizes(name: str) -> None:
    """Raises PlanError where a number in a network's name is none that a network can have."""
    most = 99_999 if name.startswith("lenet") else 2_000  # units, or layers and factors of width
    for number in re.findall("[0-9]+", name):
        if len(number) > 5 or int(number) > most or (name.startswith("lenet") and not int(number)):
            raise PlanError(f"model '{name[:40]}' is of no size that a network can have: numbers up to {most:,}")
