"""Checkpoints that other programs wrote, read as data alone: safetensors, and torch files with weights_only=True.

Read are a state dict itself or one nested in a file of a training loop (PyTorch Lightning, timm, DistributedDataParallel),
and a folder of transformers with its model.safetensors, in one file or in shards.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pruning.plan import PlanError, suggest
from pruning.record.text import read_object
from pruning.record.whole import sha256

NESTED = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params", "module", "ema",
          "model_ema", "ema_state_dict", "state_dict_ema", "ema_model")  # fmt: skip
IN_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True)
class Foreign:
    """The tensors of a checkpoint by the names in it, the SHA-256 of its file, and the table of it that they came from."""

    tensors: Mapping[str, Tensor]
    sha256: str
    source: str
    key: str = ""
    others: tuple[str, ...] = ()


def read(path: Path, key: str | None = None) -> Foreign:
    """Returns the checkpoint's tensors on the CPU; `key` chooses one of several state dicts in the file.

    Raises PlanError for a file that is missing, empty, damaged, of another kind, or that holds code.
    """
    path = Path(path)
    if not path.exists():
        raise PlanError(f"weights '{path}' do not exist")
    if path.is_dir():
        path = _in_folder(path)
    if path.name.endswith(".index.json"):
        if key is not None:
            raise PlanError(f"key '{key}' is not used: '{path}' holds one state dict")
        return _shards(path)
    if path.stat().st_size == 0:
        raise PlanError(f"weights '{path}' are an empty file")
    content = _load(path)
    name, tensors, others = _found(path, content, key)
    return Foreign(tensors, sha256(path), str(path), name, others)


def _in_folder(path: Path) -> Path:
    for name in IN_FOLDER:
        if (path / name).is_file():
            return path / name
    files = sorted(
        p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
    )
    more = f"; it holds {', '.join(files[:5])}" if files else ""
    raise PlanError(f"weights '{path}' are a folder without {' or '.join(IN_FOLDER)}: name the file{more}")


def _shards(index: Path) -> Foreign:
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in names.values()
    ):
        raise PlanError(f"{index} is damaged: its weight_map names no files beside it")
    tensors: dict[str, Tensor] = {}
    digest = hashlib.sha256()
    for name in sorted(set(names.values())):
        file = index.parent / name
        if not file.is_file():
            raise PlanError(f"{index} names {file}, which does not exist")
        tensors |= _safetensors(file)
        digest.update(bytes.fromhex(sha256(file)))
    return Foreign(tensors, digest.hexdigest(), str(index))


def _load(path: Path) -> Any:
    """Returns what the file holds, told by its first bytes whatever its name is."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return _safetensors(path)
    if head[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise PlanError(
                    f"weights '{path}' are a TorchScript archive: save the state dict of what it was made from"
                )
    elif head[:1] != b"\x80":
        raise PlanError(f"weights '{path}' are neither a safetensors nor a torch file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        if named := _objects(path):
            raise PlanError(
                f"weights '{path}' hold objects that only code can load ({', '.join(named[:3])}), which is refused: where you "
                "trust the file, save its state dict alone, torch.save(model.state_dict(), FILE), or as safetensors"
            ) from None
        raise PlanError(f"weights '{path}' are damaged or no torch file: {str(error).splitlines()[0]}") from None


def _objects(path: Path) -> list[str]:
    """Returns the names of what the file would import."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:
        return []


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise PlanError(f"weights '{path}' are damaged: {error}") from None


def _found(path: Path, content: Any, key: str | None) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """Returns (name, tensors, names of other state dicts) of the state dict in the file that is meant."""
    if isinstance(content, Tensor) or not isinstance(content, Mapping):
        raise PlanError(f"weights '{path}' hold a {type(content).__name__}, not a state dict")
    inside = {str(name): _tensors(value) for name, value in content.items() if _tensors(value)}
    if key is not None:
        if key not in inside:
            raise PlanError(
                f"key '{key}' is no state dict in '{path}'{suggest(key, inside)}; it has {', '.join(inside) or 'none'}"
            )
        return key, inside[key], tuple(name for name in inside if name != key)
    own = _tensors(content)
    if own:
        return "", own, ()
    for name in (*NESTED, *inside):
        if name in inside:
            return name, inside[name], tuple(other for other in inside if other != name)
    raise PlanError(f"weights '{path}' hold no state dict; their keys are {json.dumps([str(k) for k in content][:6])}")


def _tensors(value: Any) -> dict[str, Tensor]:
    """Returns the tensors of a table of them; empty for anything else, as an optimizer's state."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
