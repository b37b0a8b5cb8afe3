"""GSM, global sparse momentum (Ding et al. 2019), as in Zimmer et al.'s code.

Of all entries the k with the largest |w dL/dw| keep their gradient; all others move by weight decay
and what is left of their momentum, towards 0. At the end one global magnitude pruning removes what has become small.

k is the number of weights that the goal keeps. `rank` "all" ranks every parameter, normalization and biases included,
as Zimmer et al.'s code does; "prunable" ranks the weights alone, as Ding et al.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from pruning import ops
from pruning.training.methods.end_pruned import EndPruned, RankOptions


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
