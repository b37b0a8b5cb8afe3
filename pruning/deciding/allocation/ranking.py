"""Rankings of all layers' weights together: scores as they are, or by LAMP.

LAMP: magnitudes normalized within each layer, so that one ranking serves all layers (Lee et al. 2021).

Deviations from the reference implementation: sums are float64 and run from the largest weight down instead of being
differences of a float32 total, and no layer is ever emptied, not even one of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def as_they_are(scores: Sequence[Tensor], alive: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Returns the scores."""
    return list(scores)


def lamp(scores: Sequence[Tensor], alive: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Returns LAMP scores (float64): z_i^2 over the sum of squares of all z_j at least as large, itself included.

    Lee et al. (2021), equation 1, with z the magnitudes. For another criterion z are its scores, shifted to start at 0
    in every layer where any score is negative. Among the `alive` weights (by default all) the highest of each layer
    gets 1, every other at most 1/2; the others get 0.
    """
    signed = any(bool((score < 0).any()) for score in scores)
    out = []
    for i, score in enumerate(scores):
        live = torch.ones_like(score, dtype=torch.bool) if alive is None else alive[i]
        z = score[live].double()
        if signed and len(z):
            z = z - z.min()
        if z.any():
            z = z / z.max()  # neither overflow nor underflow of the squares, whatever the scale of the scores
        ordered, index = z.square().sort(descending=True, stable=True)
        value = ordered / ordered.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
        value[:1] = 1.0
        value = torch.empty_like(value).scatter_(0, index, value)
        out.append(torch.zeros_like(score, dtype=torch.float64).masked_scatter_(live, value))
    return out
