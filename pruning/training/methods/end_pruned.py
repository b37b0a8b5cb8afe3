"""Methods that train densely, drive small weights to 0 and prune by global magnitude at the very end: GSM and LC."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from pruning import ops
from pruning.masks import Masks, keep_count, prunable
from pruning.training.methods.base import Budget, Method, Options


class RankOptions(Options):
    """`rank` all parameters, or the prunable weights only."""

    rank: Literal["all", "prunable"] = "all"


class EndPruned(Method):
    """Methods that train densely, drive small weights to 0 and prune by global magnitude at the very end."""

    def __init__(self, budget: Budget, options: RankOptions) -> None:
        super().__init__()
        assert budget.sparsity is not None
        self.budget, self.goal, self.options = budget, budget.sparsity, options

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns no groups."""
        self.weights = dict(prunable(model, self.budget.exclude, self.budget.include))
        self.keep = keep_count(sum(weight.numel() for weight in self.weights.values()), self.goal)
        return []

    def ranked(self) -> list[nn.Parameter]:
        """Returns the parameters that have a gradient and take part in the ranking."""
        everything = [p for group in self.optimizer.param_groups for p in group["params"]]
        chosen = everything if self.options.rank == "all" else list(self.weights.values())
        return [p for p in chosen if p.grad is not None]

    @torch.no_grad()
    def finish(self) -> Masks:
        """Returns the masks of the largest magnitudes after pruning the network by them."""
        kept = ops.topk_masks(list(self.weights.values()), self.keep, magnitude=True)
        masks = Masks(dict(zip(self.weights, kept, strict=True)))
        masks.apply(self.model)
        return masks
