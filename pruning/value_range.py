"""The range of a tensor in one pass that writes nothing: what tells broken and all-zero tensors from others."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def value_range(x: Tensor) -> tuple[float, float]:
    """Returns the least and the greatest entry; NaN twice where one is NaN, zeros where there is none."""
    if not x.numel():
        return 0.0, 0.0
    low, high = torch.aminmax(x.detach())
    return float(low), float(high)


def finite(x: Tensor) -> bool:
    """Returns whether no entry is infinite or NaN."""
    return all(map(math.isfinite, value_range(x)))
