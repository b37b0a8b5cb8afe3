"""STR, soft threshold reparametrization (Kusupati et al. 2020).

Every weight tensor learns a threshold: used weight = sign(w) relu(|w| - sigmoid(s)). s starts at `s_init`
and is trained with the weights; its weight decay pulls the threshold towards 1/2 and so drives the sparsity, which is an
outcome. Surviving weights are the shrunk ones.

`threshold_decay` is the weight decay of s; None is that of the weights, as in both papers.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pruning.training.methods.base import Budget, Options
from pruning.training.methods.reparametrized import Formula, Reparametrized, group


class STROptions(Options):
    """`s_init`, the thresholds' start before the sigmoid; their own weight decay and multiple of the learning rate."""

    s_init: float = -100.0
    threshold_decay: float | None = Field(None, ge=0)
    threshold_lr: float = Field(1.0, gt=0)


class SoftThreshold(Formula):
    """sign(w) relu(|w| - sigmoid(s)) with one s for the tensor."""

    def __init__(self, s_init: float, like: Tensor) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.full((), s_init, dtype=like.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the shrunk weights."""
        size = weight.abs() - self.s.sigmoid()
        return (weight.sign() * size).where(size > 0, 0.0)

    def kept(self, weight: Tensor) -> Tensor:
        """Returns which weights exceed the threshold."""
        return weight.abs() - self.s.sigmoid() > 0


class STR(Reparametrized):
    """Soft threshold reparametrization: one learned threshold per tensor."""

    OPTIONS = STROptions

    def __init__(self, budget: Budget, options: STROptions) -> None:
        super().__init__(budget)
        self.options = options

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns the group of the thresholds."""
        self.parametrize(model, lambda weight: SoftThreshold(self.options.s_init, weight))
        decay = self.options.threshold_decay
        thresholds = [p for formula in self.formulas.values() for p in formula.parameters()]
        return [group(thresholds, self.budget.weight_decay if decay is None else decay, self.options.threshold_lr)]
