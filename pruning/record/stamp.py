"""What ties a run to source files of the user's own: their digests in its settings, their places beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pruning import usercode
from pruning.plan import CODED, Phase, Train, override

P = TypeVar("P", bound=Phase)


def coded(phase: Phase) -> dict[str, str]:
    """Returns {key: name} of what a phase names as code of the user's own; keys are as in phase.json's `code`."""
    names: dict[str, Any] = {key: getattr(phase, key) for key in CODED[phase.phase]}
    if isinstance(phase, Train):
        names |= {"model_code": phase.model, "data_code": phase.data}
    return {key: name for key, name in names.items() if name is not None and usercode.is_code(name)}


def stamp(phase: P) -> tuple[P, dict[str, str]]:
    """Returns the settings with the digests of the user's source files, and the absolute paths of those files."""
    paths: dict[str, str] = {}
    digests: dict[str, Any] = {}
    for key, name in coded(phase).items():
        path, sha = usercode.resolve(name)
        paths[key] = str(path)
        if key in ("model_code", "data_code"):
            digests[key] = sha
        else:
            digests.setdefault("code", {})[key] = sha
    if isinstance(phase, Train) and phase.model.startswith("transformers:") and "config" not in phase.model_options:
        file = Path(phase.model.partition(":")[2]) / "config.json"
        if file.is_file():  # an edited configuration is another network
            digests["model_options.config"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return (override(phase, digests) if digests else phase), paths


def stamped(phase: Phase, key: str) -> str | None:
    """Returns the digest that :func:`stamp` gave the phase for a key."""
    found: str | None = getattr(phase, key) if key in ("model_code", "data_code") else phase.code.get(key)
    return found


def located(phase: P, paths: Mapping[str, str]) -> P:
    """Returns the phase with its code named by absolute paths, so that it is found from any folder."""
    changes = {key: place(getattr(phase, key), paths.get(key)) for key in coded(phase) if not key.endswith("_code")}
    return override(phase, changes) if changes else phase


def place(name: str, path: str | None) -> str:
    """Returns the name of a function with its file as an absolute path."""
    file, sep, function = name.rpartition(":")
    return f"{Path(path)}:{function}" if path and sep and file.endswith(".py") else name
