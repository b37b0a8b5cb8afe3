"""The run folder as tensors: safetensors files, written whole or not at all, read with every check that tells damage.

Tensors that share memory (tied weights) are stored once; the metadata names the aliases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pruning.plan import SCHEMA, PlanError
from pruning.record import writing
from pruning.record.text import parse
from pruning.value_range import finite


def save(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None) -> None:
    """Writes the tensors and the notes (JSON) as one safetensors file, whole or not at all."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        # A clone: safetensors refuses tensors that share storage, as views of one buffer do.
        stored[name] = tensor.detach().to("cpu", copy=True).contiguous()
    # One key: safetensors writes several in an order of its own, and equal states should be equal files.
    metadata = {"prune": json.dumps({"schema": SCHEMA, "aliases": aliases, "notes": dict(notes or {})})}
    with writing.replacing(path) as part:
        try:
            save_file(stored, part, metadata)
        except SafetensorError as error:
            raise PlanError(f"cannot write {path}: {error}") from None


def load(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns (tensors, notes) of a file that :func:`save` wrote; raises PlanError where it is missing or damaged."""
    if not path.is_file():
        raise PlanError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = parse((file.metadata() or {}).get("prune", "{}"))
            if not isinstance(metadata, dict):
                raise ValueError("its metadata is no JSON object")
            if metadata.get("schema") != SCHEMA:
                raise PlanError(f"{path} has schema {metadata.get('schema')!r}; this version reads schema {SCHEMA}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        aliases, notes = metadata["aliases"], metadata["notes"]
        if not isinstance(aliases, dict) or not isinstance(notes, dict):
            raise ValueError("its metadata has lists where names belong")
        for alias, name in aliases.items():
            tensors[alias] = tensors[name]
        return tensors, notes
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"{path} is damaged: {error}") from None


def restore(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Loads weights and buffers into the model; raises PlanError where names or shapes differ or a value is not finite."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        what = f"it lacks '{missing[0]}'" if missing else f"it has '{extra[0]}', which the model lacks"
        raise PlanError(f"{source} does not fit the model: {what}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise PlanError(
                f"{source} does not fit the model: '{name}' is {list(tensor.shape)}, not {list(own[name].shape)}"
            )
        if tensor.is_floating_point() and not finite(tensor):
            raise PlanError(f"{source}: '{name}' holds values that are not finite")
    model.load_state_dict(dict(tensors))


def state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the model's weights and buffers by name; raises PlanError where a module keeps state that is no tensor."""
    out = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise PlanError(
                f"'{name}' of the model's state is a {type(value).__name__}, not a tensor; it cannot be saved"
            )
        out[name] = value
    return out
