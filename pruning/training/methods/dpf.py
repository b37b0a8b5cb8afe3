"""DPF, dynamic pruning with feedback (Lin et al. 2020), as in Zimmer et al.'s code.

The forward pass uses the masked weights; the gradient taken there moves the dense ones, with weight decay and momentum:
w <- w - eta g(w * m). The masks are the largest magnitudes of all dense weights together, drawn anew at every event of
GMP's cubic ramp and every 16th step; the sparsity moves at the events only.

Lin et al. prune convolutions only and let the sparsity rise step by step until the second drop of the learning rate.
"""

from __future__ import annotations

import bisect

from pydantic import Field

from pruning.masks import keep_count
from pruning.training.methods.base import Budget, Options
from pruning.training.methods.masked import MaskedMethod
from pruning.training.ramps import cubic_ramp, pruning_events


class DPFOptions(Options):
    """`events` at which the sparsity rises, `refresh` steps between two drawings of the masks."""

    events: int = Field(20, ge=1)
    refresh: int = Field(16, ge=1)


class DPF(MaskedMethod):
    """Dynamic pruning with feedback."""

    OPTIONS = DPFOptions

    def __init__(self, budget: Budget, options: DPFOptions) -> None:
        super().__init__(budget)
        assert budget.sparsity is not None
        self.goal, self.options = budget.sparsity, options
        self.events = pruning_events(options.events, budget.total_steps)

    def after_step(self, step: int) -> None:
        """Draws the masks anew where the next step is an event or, from the first event on, a multiple of `refresh`."""
        following = step + 1
        event = bisect.bisect_right(self.events, following)
        if event and (following % self.options.refresh == 0 or self.events[event - 1] == following):
            total = sum(weight.numel() for weight in self.weights.values())
            self.keep_largest(keep_count(total, cubic_ramp(event, len(self.events), self.goal)))
        else:
            self.hide()
