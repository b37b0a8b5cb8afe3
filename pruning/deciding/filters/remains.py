"""What masks leave of a network's structure: filters and neurons kept, neurons collapsed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def filters_kept(masks: Mapping[str, Tensor], axes: Mapping[str, int] = {}) -> dict[str, tuple[int, int]]:
    """Returns {name: (filters or neurons with any weight left, all)}; `axes` say where output units do not lie along the first."""
    out = {}
    for name, mask in masks.items():
        rows = mask.movedim(axes.get(name, 0), 0)
        out[name] = (int(rows.flatten(1).any(1).sum()), len(rows))
    return out


def neuron_collapse(masks: Mapping[str, Tensor], axes: Mapping[str, int] = {}) -> float:
    """Returns the share of filters and neurons of all layers with no weight left (Frankle et al. 2021, figure 6)."""
    counts = filters_kept(masks, axes).values()
    total = sum(number for _, number in counts)
    return 1.0 - sum(kept for kept, _ in counts) / total if total else 0.0


def neurons_by_sparsity(masks: Mapping[str, Tensor], axes: Mapping[str, int] = {}) -> list[int]:
    """Returns how many filters and neurons of all layers have at least s percent of their weights pruned, for s = 0, 1 ... 100.

    The first number is that of all, the last that of those with no weight left (Frankle et al. 2021, figure 6).
    """
    found = torch.zeros(101, dtype=torch.int64)
    for name, mask in masks.items():
        rows = mask.movedim(axes.get(name, 0), 0).flatten(1)
        percent = (~rows).sum(1) * 100 // rows.shape[1]  # whole percent, rounded down: at least s where this is
        found += percent.bincount(minlength=101).cpu()
    return [int(number) for number in found.flip(0).cumsum(0).flip(0)]
