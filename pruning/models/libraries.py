"""Models of torchvision, timm and transformers, with random weights: nothing is downloaded but by :func:`pretrained`."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

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


def pretrained(model: str, name: str) -> dict[str, Tensor]:
    """Returns the state dict that torchvision or timm has for its model, from their cache or by their download.

    `name` is one of torchvision's weights for the model (IMAGENET1K_V2), a tag of timm's (a1_in1k), or "default".
    """
    library, colon, model_name = model.partition(":")
    if not colon or library not in ("torchvision", "timm"):
        raise PlanError(
            f"--pretrained is for models of torchvision and timm, not for '{model}': name a file of weights"
        )
    try:
        if library == "timm":
            return _timm_weights(model_name, name)
        models = _library("torchvision", "torchvision.models", "torchvision")
        _known("torchvision", model_name, models.list_models(module=models))
        known = {weights.name: weights for weights in models.get_model_weights(model_name)}
        if name != "default" and name not in known:
            raise PlanError(
                f"torchvision has no weights '{name}' for '{model_name}'{suggest(name, known)}; it has {', '.join(known)}"
            )
        chosen = models.get_model_weights(model_name).DEFAULT if name == "default" else known[name]
        return dict(chosen.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise PlanError(
            f"the weights '{name}' of '{model}' cannot be had: {type(error).__name__}: {reason[:200]}"
        ) from error


def _timm_weights(model: str, tag: str) -> dict[str, Tensor]:
    timm = _library("timm", "timm", "timm")
    _known("timm", model, timm.list_models())
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
    if tag != "default" and tag not in tags:
        raise PlanError(
            f"timm has no weights '{tag}' for '{model}'{suggest(tag, tags)}; it has {', '.join(tags) or 'none'}"
        )
    full = model if tag == "default" else f"{model}.{tag}"
    return dict(timm.create_model(full, pretrained=True).state_dict())


def transformers_model(folder: str, shape: Any, classes: int, config: str = "") -> nn.Module:
    """Returns the classifier that the config.json in a folder describes, with random weights and `classes` outputs.

    Its output is the tensor of class scores. `config` is the SHA-256 that the file must have. Nothing is downloaded, and a
    folder that brings code of its own is refused.
    """
    transformers = _library("transformers", "transformers", "transformers")
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise PlanError(f"model 'transformers:{folder}' needs a folder with a config.json; {path} does not exist")
    text = path.read_bytes()
    if config and hashlib.sha256(text).hexdigest() != config:
        raise PlanError(f"{path} has changed since the run was made")
    try:
        table = json.loads(text)
    except ValueError as error:
        raise PlanError(f"{path} is no JSON: {error}") from None
    if not isinstance(table, dict) or "auto_map" in table:
        raise PlanError(
            f"{path} names code of its own (auto_map), which is not run: only models of transformers itself are"
        )
    try:
        about = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, num_labels=classes
        )
        kind = _classifier(transformers, about)
        network: nn.Module = kind.from_config(about)
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise PlanError(f"model 'transformers:{folder}' cannot be built: {reason[:300]}") from error
    network.register_forward_hook(_scores)
    return network


def _classifier(transformers: ModuleType, about: Any) -> Any:
    """Returns the auto class of the configuration's task: what its architecture says, else images, else sequences."""
    named = (about.architectures or [""])[0]
    kinds = (transformers.AutoModelForImageClassification, transformers.AutoModelForSequenceClassification)
    for kind in kinds if "ForSequenceClassification" not in named else kinds[::-1]:
        if type(about) in kind._model_mapping:
            return kind
    raise PlanError(f"transformers has no classifier of sequences or images for '{about.model_type}'")


def _scores(module: nn.Module, args: Any, output: Any) -> Any:
    """Returns the class scores of a transformers output, so that the network returns a tensor."""
    return getattr(output, "logits", output)


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
