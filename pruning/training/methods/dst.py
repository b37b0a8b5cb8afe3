"""DST, dynamic sparse training (Liu et al. 2020).

Every output unit (filter, neuron) learns a threshold t, from 0: used weight = w step(|w| - t), with a surrogate for the
step's derivative. The loss gains alpha sum exp(-t), which drives the thresholds up: the sparsity is an outcome of
`alpha`. Where a tensor keeps the share `reset_at` of its weights or less, 1 % in both papers, its thresholds start again
from 0. While the rate is high they rise anew; near the end the tensor stays dense, and the sparsity falls by as much as
the tensor is large. A goal near or beyond 99 % of the largest tensor needs a smaller share; at 0 only an empty tensor's
thresholds start again.

Zimmer et al.'s code decays the thresholds like weights (`threshold_decay`) and adds wd/2 sum w^2 to the loss beside the
optimizer's own decay (`decay_in_loss`); the default is neither.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pruning.masks import output_axes
from pruning.training.methods.base import Budget, Options
from pruning.training.methods.reparametrized import Formula, Reparametrized, group
from pruning.training.methods.step_function import Threshold


class DSTOptions(Options):
    """`alpha` sets the sparsity; `reset_at` is the share of a tensor's weights up to which its thresholds are set back."""

    alpha: float = Field(1e-6, ge=0)
    reset_at: float = Field(0.01, ge=0, lt=1)
    threshold_decay: float = Field(0.0, ge=0)
    decay_in_loss: float = Field(0.0, ge=0)


class Thresholded(Formula):
    """w step(|w| - t) with one t per output unit: the first dimension, of transposed convolutions the second."""

    def __init__(self, like: Tensor, unit: int) -> None:
        super().__init__()
        self.t = nn.Parameter(like.new_zeros([n if d == unit else 1 for d, n in enumerate(like.shape)]))

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the used weights."""
        return Threshold.apply(weight, self.t)

    def kept(self, weight: Tensor) -> Tensor:
        """Returns which weights exceed their threshold."""
        return weight.abs() > self.t


class DST(Reparametrized):
    """Dynamic sparse training: one learned threshold per output unit."""

    OPTIONS = DSTOptions

    def __init__(self, budget: Budget, options: DSTOptions) -> None:
        super().__init__(budget)
        self.options = options

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns the group of the thresholds."""
        axes = output_axes(model, self.budget.include)
        names = {id(p): name for name, p in model.named_parameters()}
        self.parametrize(model, lambda weight: Thresholded(weight, axes.get(names[id(weight)], 0)))
        return [group((p for f in self.formulas.values() for p in f.parameters()), self.options.threshold_decay)]

    def penalty(self) -> Tensor:
        """Returns alpha sum exp(-t), and decay/2 sum w^2 where asked for."""
        thresholds = [formula.t for formula in self.formulas.values() if isinstance(formula, Thresholded)]
        total = self.options.alpha * torch.stack([(-t).exp().sum() for t in thresholds]).sum()
        if self.options.decay_in_loss:
            squares = torch.stack([weight.square().sum() for weight in self.weights.values()]).sum()
            total = total + self.options.decay_in_loss / 2 * squares
        return total

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Sets the thresholds of a tensor that is all but empty back to 0."""
        for name, formula in self.formulas.items():
            if isinstance(formula, Thresholded):
                share = formula.kept(self.weights[name]).float().mean()
                formula.t.copy_(formula.t.where(share > self.options.reset_at, 0.0))
