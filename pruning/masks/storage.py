"""Masks as a file: safetensors, one bit per weight as uint8, written whole or not at all, every statement checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pruning import ops
from pruning.plan import SCHEMA, PlanError
from pruning.record import writing


def write(path: Path, masks: Mapping[str, Tensor], extra: Mapping[str, Tensor]) -> None:
    """Writes the masks in their order, and which of them are the extra ones."""
    everything = {**masks, **extra}
    layout = {
        "schema": SCHEMA,
        "shapes": {name: list(mask.shape) for name, mask in everything.items()},
        "extra": list(extra),
    }
    packed = {name: ops.pack(mask.cpu()) for name, mask in everything.items()}
    data = save(packed, {"masks": json.dumps(layout)})  # one key: several have no order that is the same every time
    with writing.replacing(path) as part:
        part.write_bytes(data)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns (masks, extra) that :func:`write` wrote; raises PlanError where the file is absent or damaged."""
    if not path.is_file():
        raise PlanError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise PlanError(f"{path} is damaged: {error}") from None
    if "masks" not in metadata:
        raise PlanError(f"{path} holds no masks")
    masks, extra = _unpacked(path, metadata["masks"], packed)
    return {name: m for name, m in masks.items() if name not in extra}, {name: masks[name] for name in extra}


def _unpacked(path: Path, text: str, packed: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns ({name: mask} in network order, names of the extra ones), every statement of the file checked."""
    layout = _json_object(path, text)
    if layout.get("schema") != SCHEMA:
        raise PlanError(f"{path} has schema {layout.get('schema')!r}; this version reads schema {SCHEMA}")
    shapes, extra = layout.get("shapes"), layout.get("extra")
    if not isinstance(shapes, dict) or not isinstance(extra, list) or not all(name in shapes for name in extra):
        raise PlanError(f"{path} is damaged: its list of shapes is not readable")
    if odd := shapes.keys() ^ packed.keys():
        raise PlanError(f"{path} is damaged: '{min(odd)}' has a shape without a mask, or a mask without a shape")
    out = {}
    for name, shape in shapes.items():
        bits = packed[name]
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise PlanError(f"{path} is damaged: '{name}' has shape {shape!r}")
        size = math.prod(shape)
        if bits.dtype != torch.uint8 or bits.shape != ((size + 7) // 8,):
            raise PlanError(f"{path} is damaged: '{name}' is {list(shape)} but holds {bits.numel()} bytes of masks")
        if size % 8 and int(bits[-1]) >> (size % 8):
            raise PlanError(f"{path} is damaged: '{name}' has bits set beyond its {size} weights")
        out[name] = ops.unpack(bits, shape)
    return out, extra


def _json_object(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise PlanError(f"{path} is damaged: its metadata is not readable")
    return value
