"""Arguments from Python, checked and brought to one form before any work is done."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from torch import Tensor, nn

from pruning import trees
from pruning.errors import PlanError


def module(model: Any) -> nn.Module:
    """Returns the model; raises PlanError for a state dict, a list of parameters or anything else."""
    if isinstance(model, nn.Module):
        return model
    raise PlanError(f"model must be a torch.nn.Module, not {_kind(model)}: names and layers of the weights are needed")


def share(value: Any, name: str) -> float:
    """Returns a number in [0, 1], also of a 0-d tensor, a numpy scalar or a Decimal; PlanError for others."""
    if (isinstance(value, Tensor) and value.dim() == 0) or (
        hasattr(value, "item") and getattr(value, "ndim", None) == 0
    ):
        value = value.item()
    number = isinstance(value, (numbers.Real, Decimal)) and not isinstance(value, bool)
    if not number or not 0 <= float(value) <= 1:
        hint = f" (did you mean {float(value) / 100:g}?)" if number and 1 < float(value) <= 100 else ""
        raise PlanError(f"{name} must lie in [0, 1], not {value!r}{hint}")
    return float(value)


def whole(value: Any, name: str, least: int) -> int | None:
    """Returns an integer of at least `least`, or None for None; PlanError for others, floats and truth values among them."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise PlanError(f"{name} must be at least {least}, a whole number, not {value!r}")
    return int(value)


def word(value: Any, name: str) -> str:
    """Returns a name; PlanError for what is none."""
    if not isinstance(value, str):
        raise PlanError(f"{name} must be a name, not {value!r}")
    return value


def patterns(value: Any, name: str) -> tuple[str, ...]:
    """Returns patterns of names as a tuple, of one or several."""
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    return tuple(word(pattern, f"{name}, each pattern,") for pattern in found)


def batch(value: Any) -> Any:
    """Returns a batch; PlanError where it holds something else than tensors, as numpy's arrays."""
    parts = value if isinstance(value, (tuple, list)) else (value,)
    for part in parts:
        wrong = part is not None and not isinstance(part, Tensor) and next(trees.tensors(part), None) is None
        if wrong:
            raise PlanError(
                f"batch must hold tensors, or tuples and dicts of such, not {_kind(part)}: use torch.as_tensor"
            )
    return value


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
