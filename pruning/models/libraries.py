"""Models of torchvision and timm by their names there, with random weights: nothing is downloaded."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from torch import nn

from pruning.models.shapes import Shape
from pruning.plan import PlanError, suggest


def torchvision_model(name: str, shape: Shape, classes: int, **options: Any) -> nn.Module:
    """Returns torchvision's classification model `name`; options are its builder's keyword arguments.

    GoogLeNet and Inception come without their auxiliary outputs. torchvision's models take three channels.
    """
    models = _library("torchvision", "torchvision.models", "torchvision")
    _known("torchvision", name, models.list_models(module=models))
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True, **options}
    return models.get_model(name, weights=None, num_classes=classes, **options)


def timm_model(name: str, shape: Shape, classes: int, **options: Any) -> nn.Module:
    """Returns timm's model `name` for images of as many channels; options are `timm.create_model`'s."""
    timm = _library("timm", "timm", "timm")
    _known("timm", name, timm.list_models())
    if "pretrained" in options or "checkpoint_path" in options:
        raise PlanError("timm's pretrained and checkpoint_path are not allowed: networks start from random weights")
    return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=shape[0], **options)


def _library(name: str, module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PlanError(f"models of {name} need it installed: pip install {package} ({error})") from None


def _known(library: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise PlanError(
            f"{library} has no classification model '{name}'{suggest(name, names)}; it has {len(names)} others"
        )
