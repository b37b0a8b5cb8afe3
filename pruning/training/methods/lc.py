"""LC, learning-compression, as Zimmer et al. ran it: weight decay acts on the smallest weights only.

Before every step the k = |weights that the goal keeps| largest |w| get -wd w added to their gradient, which cancels their
weight decay. At the end one global magnitude pruning removes what has become small. The algorithm of Carreira-Perpinan &
Idelbayev (2018) is another: `lc-original`.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from pruning import ops
from pruning.training.methods.end_pruned import EndPruned, RankOptions


class LC(EndPruned):
    """Learning-compression after Zimmer et al.: decay for the smallest weights alone."""

    OPTIONS = RankOptions
    optimizers: ClassVar[tuple[str, ...]] = (
        "sgd",
        "adam",
    )  # decay decoupled from the gradient could not be cancelled there

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Takes the weight decay off the largest weights' gradients."""
        decays = {id(p): g["weight_decay"] for g in self.optimizer.param_groups for p in g["params"]}
        ranked = self.ranked()
        for weight, mask in zip(ranked, ops.topk_masks(ranked, self.keep, magnitude=True), strict=True):
            if weight.grad is not None and decays[id(weight)]:
                weight.grad.sub_(weight.where(mask, 0.0), alpha=decays[id(weight)])
