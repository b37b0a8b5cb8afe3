"""Prune neural networks: criteria, allocations, retraining, masks that hold, and honest counts.

Names are loaded on first use, so that importing the package costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Masks": "pruning.masks",
    "prune": "pruning.api",
    "score": "pruning.api",
    "allocate": "pruning.allocation",
    "MaskedSGD": "pruning.optim",
    "enforce": "pruning.optim",
    "count_macs": "pruning.flops",
    "Plan": "pruning.plan",
    "PlanError": "pruning.plan",
}
_MODULES = (
    "ablations", "allocation", "checkpoint", "criteria", "data", "engine", "flops", "loop", "masks", "methods", "models",
    "ops", "optim", "plan", "rewind", "runs", "schedules", "structured",
)  # fmt: skip

__all__ = ["__version__", *_MODULES, *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"pruning.{name}")
    raise AttributeError(f"module 'pruning' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE, *_MODULES])
