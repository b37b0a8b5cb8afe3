"""What masks leave of a network's structure: filters and neurons kept, neurons collapsed."""

from __future__ import annotations

from collections.abc import Mapping

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
