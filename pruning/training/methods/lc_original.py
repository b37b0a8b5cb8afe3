"""LC in its original form: pruning as an augmented Lagrangian alternation (Carreira-Perpinan & Idelbayev 2018).

L step n of N: SGD on L(w) + mu_n/2 ||w - Delta - lambda/mu_n||^2, mu_n = mu growth^n, so that the gradient gains
mu_n (w - Delta) - lambda. C step: Delta = w - lambda/mu_n where that is among the kappa largest, elsewhere 0. Then
lambda <- lambda - mu_n (w - Delta). The network ends as the last Delta. The L steps share the training's steps in N + 1
equal parts, the first takes two.

The paper starts from a trained network and repeats for hundreds of epochs; here the first Delta is that of the weights at
hand. Its learning rate of the L steps, .1 * .98^n, is the training's schedule: stepped, gamma .98, a milestone each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pruning import ops
from pruning.masks import Masks, keep_count, prunable
from pruning.plan import PlanError
from pruning.training.methods.base import Budget, Method, Options


class LCOriginalOptions(Options):
    """`alternations` N, `mu` of the first and `growth` from each to the next."""

    alternations: int = Field(40, ge=1)
    mu: float = Field(9e-5, gt=0)
    growth: float = Field(1.1, ge=1)


class LCOriginal(Method):
    """Learning-compression: the augmented Lagrangian of Carreira-Perpinan & Idelbayev."""

    OPTIONS = LCOriginalOptions

    def __init__(self, budget: Budget, options: LCOriginalOptions) -> None:
        super().__init__()
        assert budget.sparsity is not None
        self.budget, self.goal, self.options = budget, budget.sparsity, options
        parts = options.alternations + 1
        if parts > budget.total_steps:
            raise PlanError(f"{options.alternations} alternations do not fit {budget.total_steps} steps")
        self.ends = [budget.total_steps * (n + 2) // parts for n in range(options.alternations)]  # of the L steps
        self.n = 0

    @property
    def mu(self) -> float:
        """Returns mu_n of the present L step; the last one's, once all are done."""
        return self.options.mu * self.options.growth ** min(self.n, self.options.alternations - 1)

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns no groups; Delta starts as the pruned weights, lambda as 0."""
        self.weights = dict(prunable(model, self.budget.exclude, self.budget.include))
        self.keep = keep_count(sum(weight.numel() for weight in self.weights.values()), self.goal)
        self.multipliers = [torch.zeros_like(weight) for weight in self.weights.values()]
        self._compress()
        return []

    @torch.no_grad()
    def _compress(self) -> None:
        shifted = [w - lam / self.mu for w, lam in zip(self.weights.values(), self.multipliers, strict=True)]
        self.kept = ops.topk_masks(shifted, self.keep, magnitude=True)
        self.delta = [value.where(mask, 0.0) for value, mask in zip(shifted, self.kept, strict=True)]

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Adds the gradient of the quadratic penalty."""
        for w, delta, lam in zip(self.weights.values(), self.delta, self.multipliers, strict=True):
            if w.grad is not None:
                w.grad.add_(w - delta, alpha=self.mu).sub_(lam)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Takes the C step and moves the multipliers where an L step ends."""
        if step + 1 != self.ends[min(self.n, len(self.ends) - 1)]:
            return
        self._compress()
        for w, delta, lam in zip(self.weights.values(), self.delta, self.multipliers, strict=True):
            lam.sub_(w - delta, alpha=self.mu)
        self.n += 1

    @torch.no_grad()
    def finish(self) -> Masks:
        """Returns the masks of the last C step; the network becomes its Delta."""
        for weight, delta in zip(self.weights.values(), self.delta, strict=True):
            weight.copy_(delta)
        masks = Masks(dict(zip(self.weights, self.kept, strict=True)))
        masks.apply(self.model)
        return masks

    def state(self) -> dict[str, Tensor]:
        """Returns Delta, its masks, lambda and n."""
        out = {"n": torch.tensor(self.n)}
        for name, delta, kept, lam in zip(self.weights, self.delta, self.kept, self.multipliers, strict=True):
            out |= {f"delta:{name}": delta, f"kept:{name}": kept, f"lambda:{name}": lam}
        return out

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        self.n = int(state["n"])
        self.delta, self.kept, self.multipliers = (
            [state[f"{what}:{name}"] for name in self.weights] for what in ("delta", "kept", "lambda")
        )
