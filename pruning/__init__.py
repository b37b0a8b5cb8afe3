"""Prune neural networks: criteria, allocations, retraining, masks that hold, and honest counts.

Names are loaded on first use, so that importing the package costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Masks": "pruning.masks",
    "prune": "pruning.deciding.decision",
    "score": "pruning.deciding.decision",
    "allocate": "pruning.deciding.allocation.sharing",
    "MaskedSGD": "pruning.training.optim",
    "enforce": "pruning.training.enforcing",
    "mask_gradients": "pruning.training.enforcing",
    "count_macs": "pruning.flops",
    "register": "pruning.registry",
    "Task": "pruning.training.tasks.base",
    "Plan": "pruning.plan",
    "PlanError": "pruning.plan",
}
_MODULES = {  # wings, and what is used so often that it needs no path
    **{name: f"pruning.{name}" for name in ("data", "deciding", "engine", "flops", "masks", "models", "ops", "plan", "record",
                                            "study", "training")},
    **{name: f"pruning.deciding.{name}" for name in ("ablations", "allocation", "criteria", "filters")},
    **{name: f"pruning.training.{name}" for name in ("loop", "methods", "optim", "schedules")},
    **{name: f"pruning.record.{name}" for name in ("checkpoint", "runs")},
}  # fmt: skip

__all__ = ["__version__", *_MODULES, *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'pruning' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE, *_MODULES])
