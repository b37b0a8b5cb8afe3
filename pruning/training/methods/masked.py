"""Methods whose weights live on behind masks that are drawn anew: w and m are both kept, the forward pass uses w m.

The model stays plain: its parameters hold the used values, +0 where a mask hides one, while a forward and a backward pass
run, so that the gradient is taken there. For the optimizer's step the stored values take their place, and that gradient
moves all of them straight through, as if nothing had been selected: w <- w - eta g(w m), with weight decay and momentum of
w. Before the first mask nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning import ops
from pruning.masks import Masks, prunable
from pruning.training.methods.base import Budget, Method


class MaskedMethod(Method):
    """The common part: swaps stored for used values around the optimizer's step."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget
        self.weights: dict[str, nn.Parameter] = {}
        self.stored: list[Tensor] = []  # as the weights; empty before the first mask
        self.kept: list[Tensor] = []  # bool, as the weights

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns no groups."""
        self.weights = dict(prunable(model, self.budget.exclude, self.budget.include))
        self._zeros = [weight.new_zeros(()) for weight in self.weights.values()]
        return []

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Puts the stored values in place for the optimizer's step."""
        if self.kept:
            torch._foreach_copy_(list(self.weights.values()), self.stored)

    @torch.no_grad()
    def hide(self) -> None:
        """Takes the stored values from the parameters, which keep the used ones; to be called after the optimizer's step."""
        if self.kept:
            weights: list[Tensor] = list(self.weights.values())
            torch._foreach_copy_(self.stored, weights)
            for weight, stored, kept, zero in zip(weights, self.stored, self.kept, self._zeros, strict=True):
                torch.where(kept, stored, zero, out=weight)

    @torch.no_grad()
    def keep_largest(self, keep: int | list[int]) -> None:
        """Draws the masks anew, in place of :meth:`hide`: the `keep` largest magnitudes of all layers, or counts by layer."""
        self._make()
        ops.topk_masks(list(self.weights.values()), keep, magnitude=True, out=self.kept)
        self.hide()

    @torch.no_grad()
    def use(self, masks: Mapping[str, Tensor]) -> None:
        """Takes masks by name, in place of :meth:`hide`."""
        self._make()
        for kept, mask in zip(self.kept, masks.values(), strict=True):
            kept.copy_(mask)
        self.hide()

    def _make(self) -> None:
        if not self.kept:
            self.stored = [torch.empty_like(weight) for weight in self.weights.values()]
            self.kept = [torch.ones_like(weight, dtype=torch.bool) for weight in self.weights.values()]

    def hidden(self) -> dict[str, Tensor]:
        """Returns the stored values by name."""
        return dict(zip(self.weights, self.stored, strict=True)) if self.kept else {}

    def density(self) -> float:
        """Returns kept / total of the weights in use."""
        return Masks(dict(zip(self.weights, self.kept, strict=True))).density if self.kept else 1.0

    def finish(self) -> Masks | None:
        """Returns the masks in force; the used values are in place already."""
        return Masks(dict(zip(self.weights, self.kept, strict=True)))

    def state(self) -> dict[str, Tensor]:
        """Returns stored values and masks, where there are any."""
        out = {f"stored:{name}": tensor for name, tensor in self.hidden().items()}
        return out | {f"kept:{name}": mask for name, mask in zip(self.weights, self.kept, strict=False)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes them back."""
        if state:
            self.stored, self.kept = ([state[f"{what}:{name}"] for name in self.weights] for what in ("stored", "kept"))
