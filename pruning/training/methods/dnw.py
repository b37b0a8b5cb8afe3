"""DNW, discovering neural wirings (Wortsman et al. 2019).

Every forward pass uses the weights of largest magnitude; the gradient passes straight through to all of them, so that
an unused weight grows until it is used. Weight decay and momentum act on all stored weights.

`rate` "layer" keeps the same share of every layer, as Wortsman et al.; "global" ranks all layers together, as Zimmer et
al. The count is exact, where Zimmer et al.'s threshold rule loses ties.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from pruning.masks import keep_count
from pruning.training.methods.base import Budget, Options
from pruning.training.methods.masked import MaskedMethod


class DNWOptions(Options):
    """`rate`: the same in every layer, or one ranking over all of them."""

    rate: Literal["layer", "global"] = "layer"


class DNW(MaskedMethod):
    """Discovering neural wirings: the largest weights of every step, straight-through gradients."""

    OPTIONS = DNWOptions

    def __init__(self, budget: Budget, options: DNWOptions) -> None:
        super().__init__(budget)
        assert budget.sparsity is not None
        self.goal, self.options = budget.sparsity, options

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns no groups; the model starts sparse."""
        groups = super().attach(model)
        sizes = [weight.numel() for weight in self.weights.values()]
        self.keep: int | list[int] = (
            keep_count(sum(sizes), self.goal)
            if self.options.rate == "global"
            else [keep_count(n, self.goal) for n in sizes]
        )
        self.keep_largest(self.keep)
        return groups

    def after_step(self, step: int) -> None:
        """Draws the masks anew from the moved weights."""
        self.keep_largest(self.keep)
