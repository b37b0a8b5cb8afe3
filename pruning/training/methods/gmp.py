"""GMP, gradual magnitude pruning (Zhu & Gupta 2017), in the variants of Zimmer et al. (2023, Tables 28 and 29).

At event k of n (:func:`pruning.training.ramps.pruning_events`) the sparsity becomes s_f (1 - (1 - k/n)^3), by magnitude. Hard
pruning is final. Soft pruning ranks all stored weights anew: a pruned one gets no gradient, only weight decay and what
that leaves in its momentum, which every event sets to 0; it returns where survivors have fallen below it. The learning
rate is the training's own, or restarts at every event (schedule "cyclic").

Zhu & Gupta prune each layer alone ("uniform") and softly. Zimmer et al.'s code ranks globally; an event falls after an
epoch's validation there and before it here, so that a logged accuracy belongs to the logged density.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pruning.deciding.allocation.sharing import allocate
from pruning.masks import Masks
from pruning.training.methods.base import Budget, Options
from pruning.training.methods.masked import MaskedMethod
from pruning.training.ramps import cubic_ramp, pruning_events


class GMPOptions(Options):
    """`events` prunings, `mode` hard or soft, `selection` of the weights."""

    events: int = Field(20, ge=1)
    mode: Literal["hard", "soft"] = "soft"
    selection: Literal["global", "uniform", "uniform+"] = "global"


class GMP(MaskedMethod):
    """Gradual magnitude pruning along a cubic ramp."""

    OPTIONS = GMPOptions

    def __init__(self, budget: Budget, options: GMPOptions) -> None:
        super().__init__(budget)
        assert budget.sparsity is not None
        self.goal, self.options = budget.sparsity, options
        events = pruning_events(options.events, budget.total_steps)
        self.sparsities = {step: cubic_ramp(k, len(events), self.goal) for k, step in enumerate(events, 1)}

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns no groups; checks the goal."""
        groups = super().attach(model)
        self._allocate(self.goal, None)
        return groups

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Writes +0 to the gradients of softly pruned weights."""
        for weight, kept in zip(self.weights.values(), self.kept, strict=False):
            if weight.grad is not None:
                weight.grad.masked_fill_(~kept, 0.0)
        super().after_backward(step)

    def after_step(self, step: int) -> None:
        """Prunes where the next step is an event."""
        sparsity = self.sparsities.get(step + 1)
        if sparsity is None:
            self.hide()
            return
        if self.options.mode == "hard":
            self.hold(self._allocate(sparsity, self.masks))
            return
        masks = self._allocate(sparsity, None)
        self.use(masks)
        for name, weight in self.weights.items():
            for value in self.optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(~masks[name], 0.0)

    @torch.no_grad()
    def _allocate(self, sparsity: float, present: Masks | None) -> Masks:
        scores = {name: weight.detach().abs() for name, weight in self.weights.items()}
        return allocate(scores, 1.0 - sparsity, self.options.selection, masks=present)

    def density(self) -> float:
        """Returns kept / total."""
        return super().density() if self.masks is None else self.masks.density

    def finish(self) -> Masks | None:
        """Returns the masks of the last event."""
        return super().finish() if self.masks is None else self.masks

    def state(self) -> dict[str, Tensor]:
        """Returns the hard masks, or what soft ones hide."""
        return super().state() if self.masks is None else dict(self.masks)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back the masks."""
        if self.options.mode == "soft":
            super().load_state(state)
        elif state:
            self.hold(Masks({name: state[name] for name in self.weights}))
