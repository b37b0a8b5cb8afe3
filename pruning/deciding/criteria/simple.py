"""Criteria that look at nothing but the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.deciding.criteria.base import Sample


def magnitude(model: nn.Module, weights: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Returns |w|."""
    return {name: weight.abs() for name, weight in weights.items()}


def random(model: nn.Module, weights: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Returns scores from U(0, 1) in float64, the same for a seed whatever the device of the weights."""

    def draw(weight: Tensor) -> Tensor:
        noise = torch.rand(
            weight.shape, generator=sample.generator, dtype=torch.float64, device=sample.generator.device
        )
        return noise.to(weight.device)

    return {name: draw(weight) for name, weight in weights.items()}
