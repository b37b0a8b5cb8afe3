"""Networks by name, or by a function of the user's own, with the initialization that a plan asks for."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from pruning import seeds, usercode
from pruning.models.lenet import Shape, lenet5, perceptron
from pruning.models.resnet_cifar import resnet_cifar
from pruning.plan import PlanError, suggest

MODELS: dict[str, str] = {
    "lenet-300-100": "fully connected, hidden layers of 300 and 100 units; lenet-A-B-... for others",
    "lenet-5": "two 5x5 convolutions and two linear layers (Han et al. 2015)",
    "resnet20": "CIFAR ResNet (He et al. 2016); resnet{6n+2} for any depth; options shortcut=A|B|TF, width",
    "resnet32": "CIFAR ResNet, 32 layers",
    "resnet44": "CIFAR ResNet, 44 layers",
    "resnet56": "CIFAR ResNet, 56 layers",
    "resnet110": "CIFAR ResNet, 110 layers",
}

# name pattern -> builder; the pattern's groups come first in its arguments, its keyword-only arguments are the options
FAMILIES: tuple[tuple[str, Callable[..., nn.Module]], ...] = (
    (r"lenet-5", lenet5),
    (r"lenet-(\d+(?:-\d+)+)", perceptron),
    (r"resnet(\d+)", resnet_cifar),
)

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


def build(
    name: str,
    shape: Shape,
    classes: int,
    *,
    options: Mapping[str, Any] | None = None,
    weight_init: str = "default",
    norm_init: str = "default",
    seed: int,
) -> nn.Module:
    """Returns the network `name` for images of `shape` (C, H, W) and `classes` outputs, on the CPU, in training mode.

    Its weights depend on `seed` alone; the global generator is left as it was. A user's function is called with those
    of `shape`, `classes` and the options that its signature accepts. The network is tried on two blank images.
    """
    what = f"model '{name}'"
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seeds.derive(seed, "init"))
        offered = {"shape": tuple(shape), "classes": classes}
        if usercode.is_code(name):
            model = usercode.call(what, usercode.load(name), offered, options or {})
        else:
            model = usercode.call(what, _family(name), offered, options or {}, typed=True)
        if not isinstance(model, nn.Module):
            raise PlanError(f"{what} must be a torch.nn.Module; the function returned {type(model).__name__}")
        check(model, tuple(shape), classes, what)
        initialize(model, weight_init, norm_init)
    return model.train()


def check(model: nn.Module, shape: Shape, classes: int, what: str = "the model") -> None:
    """Returns nothing; raises PlanError unless the model maps two blank images, in eval mode, to [2, classes]."""
    size = "x".join(map(str, shape))
    model.eval()
    try:
        with torch.no_grad():
            out = model(torch.zeros(2, *shape))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PlanError(f"{what} does not run on images of {size}: {type(error).__name__}: {reason}") from error
    if not isinstance(out, torch.Tensor):
        raise PlanError(f"{what} must return a tensor, not {type(out).__name__}")
    if out.shape != (2, classes):
        raise PlanError(f"{what} must return [2, {classes}] for two images, {classes} classes, not {list(out.shape)}")


def initialize(model: nn.Module, weight_init: str, norm_init: str) -> None:
    """Returns nothing; draws the weights of convolutions and linear layers, and the gammas of normalizations, anew.

    he-normal-fan-in and -fan-out: N(0, 2 / fan) (He et al. 2015, equations 10 and 14); biases stay as they are.
    norm_init one: gamma 1, uniform: gamma from U(0, 1); beta 0 in both. "default" leaves what the constructor drew.
    """
    for module in model.modules():
        if isinstance(module, _LAYERS) and weight_init != "default":
            fan: Literal["fan_in", "fan_out"] = "fan_in" if weight_init == "he-normal-fan-in" else "fan_out"
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
        if isinstance(module, _NORMS) and norm_init != "default" and module.weight is not None:
            nn.init.ones_(module.weight) if norm_init == "one" else nn.init.uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _family(name: str) -> Callable[..., nn.Module]:
    for pattern, builder in FAMILIES:
        match = re.fullmatch(pattern, name)
        if match:
            return functools.partial(builder, *match.groups())
    raise PlanError(
        f"model '{name}' is unknown{suggest(name, MODELS)}; allowed: {', '.join(MODELS)}, "
        "file.py:function or package.module:function"
    )
