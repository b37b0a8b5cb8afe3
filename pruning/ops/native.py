"""Which kernels serve the ops, and why."""

from __future__ import annotations

import platform
from typing import Any

import torch


def backend(device: torch.device | str) -> str:
    """Returns "native-cuda", "native-cpu" or "reference": what computes the ops on that device."""
    kind = torch.device(device).type
    return f"native-{kind}" if kind in ("cpu", "cuda") and _loaded(kind) else "reference"


def report() -> dict[str, Any]:
    """Returns what `prune doctor` shows: what was built and with what, which kernels are loaded, and if not, why."""
    return {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "built": None,
        "cpu": {"backend": backend("cpu"), "reason": "pruning._C was not built"},
        "cuda": {"backend": backend("cuda"), "reason": "pruning._C was not built"},
    }


def _loaded(kind: str) -> bool:
    return False
