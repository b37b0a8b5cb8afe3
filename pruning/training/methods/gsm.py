"""GSM, global sparse momentum (Ding et al. 2019), as in Zimmer et al.'s code.

Of all entries the k with the largest |w dL/dw| keep their gradient; all others move by weight decay
and what is left of their momentum, towards 0. At the end one global magnitude pruning removes what has become small.

k is the number of weights that the goal keeps. `rank` "all" ranks every parameter, normalization and biases included,
as Zimmer et al.'s code does; "prunable" ranks the weights alone, as Ding et al.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import nn

from pruning import ops
from pruning.masks import Masks, keep_count, prunable
from pruning.training.methods.base import Method, Options, Task


class RankOptions(Options):
    """`rank` all parameters, or the prunable weights only."""

    rank: Literal["all", "prunable"] = "all"


class EndPruned(Method):
    """Methods that train densely, drive small weights to 0 and prune by global magnitude at the very end."""

    def __init__(self, task: Task, options: RankOptions) -> None:
        super().__init__()
        assert task.sparsity is not None
        self.task, self.goal, self.options = task, task.sparsity, options

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns no groups."""
        self.weights = dict(prunable(model, self.task.exclude))
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


class GSM(EndPruned):
    """Global sparse momentum: only the entries that matter most keep their gradient."""

    OPTIONS = RankOptions
    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Writes +0 to the gradients of all entries but the k with the largest |w dL/dw|."""
        ranked = self.ranked()
        gradients = [p.grad for p in ranked if p.grad is not None]
        scores = [p * gradient for p, gradient in zip(ranked, gradients, strict=True)]
        for gradient, mask in zip(gradients, ops.topk_masks(scores, self.keep, magnitude=True), strict=True):
            gradient.masked_fill_(~mask, 0.0)
