"""What a during-training method may do: five hooks around the closed loop, in the order in which the loop calls them.

extra = method.attach(model)              once, before the optimizer is made
for each step:
    method.before_step(step)              before the forward pass: move thresholds, masks, ramps
    loss = loss + method.penalty()        after the forward pass
    method.after_backward(step)           gradients are there; the optimizer's step follows
masks = method.finish()                   once: leaves a plain network and says which weights are gone
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pruning.masks import Masks


class Method:
    """Plain dense training: every hook does nothing."""

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns parameter groups for what the method adds; may register parametrizations on the model."""
        return []

    def before_step(self, step: int) -> None:
        """Runs before the forward pass of 0-based `step`."""

    def penalty(self) -> Tensor | None:
        """Returns a 0-d tensor to add to the loss, or None."""
        return None

    def after_backward(self, step: int) -> None:
        """Runs between the backward pass and the optimizer's step; may change gradients."""

    def finish(self) -> Masks | None:
        """Returns the masks of the trained network, left plain; None where it is dense."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Returns what the method must keep to go on after an interruption, beyond the model's own state."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what :meth:`state` returned."""
