"""The native kernels: loaded once when the ops are imported; what they were built with, or why they are not there."""

from __future__ import annotations

import importlib
import json
import os
import platform
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).parents[1]
OFF = "PRUNE_NATIVE"  # set to 0, the references serve every device


def backend(device: torch.device | str) -> str:
    """Returns "native-cuda", "native-cpu" or "reference": what computes the ops on that device."""
    kind = torch.device(device).type
    return f"native-{kind}" if kind in _REASONS and not _REASONS[kind] else "reference"


def report() -> dict[str, Any]:
    """Returns what `prune doctor` shows: what was built and with what, which kernels are loaded, and if not, why.

    `built` is None or names torch, compiler, nvcc and CUDA architectures of the build (the last two empty where CUDA
    kernels were not built); `cpu` and `cuda` hold backend, library (path or None) and reason (None where loaded).
    """
    return {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "built": dict(_C.build_info()) if _C else None,
        "instructions": _C.cpu_capability() if _C else None,
        "cpu": {"backend": backend("cpu"), "library": _path("_C"), "reason": _REASONS["cpu"]},
        "cuda": {"backend": backend("cuda"), "library": _path("_cuda"), "reason": _REASONS["cuda"]},
    }


def _path(module: str) -> str | None:
    found = PathFinder.find_spec(f"pruning.{module}", [str(_PACKAGE)])  # beside this package, not another install's
    return found.origin if found else None


def _not_built(kind: str) -> str:
    note = _PACKAGE / "_native.json"
    reasons = json.loads(note.read_text())["not_built"] if note.exists() else []
    return f"the {kind} kernels were not built" + (f": {'; '.join(reasons)}" if reasons else "")


def _load_cpu() -> tuple[Any, str | None]:
    if os.environ.get(OFF) == "0":
        return None, f"{OFF}=0"
    if not _path("_C"):
        return None, _not_built("CPU")
    try:
        return importlib.import_module("pruning._C"), None
    except ImportError as error:
        return None, f"pruning._C does not load: {error}"


def _load_cuda() -> str | None:
    library = _path("_cuda")
    if os.environ.get(OFF) == "0":
        return f"{OFF}=0"
    if not library:
        return _not_built("CUDA")
    if not torch.version.cuda:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"{Path(library).name} does not load: {error}"
    return None


_C, _cpu_reason = _load_cpu()
_REASONS = {"cpu": _cpu_reason, "cuda": _load_cuda()}
