"""What a during-training method may do: hooks around the closed loop, in the order in which they are called.

extra = method.attach(model)              once, before the optimizer is made
method.bind(model, optimizer)             once, when the optimizer exists
for each step:
    loss = loss + method.penalty()        after the forward pass
    method.after_backward(step)           the gradients are there; clipping and the optimizer's step follow
    method.after_step(step)               the weights have moved: move thresholds, masks and ramps for the next forward pass
masks = method.finish()                   once: leaves a plain network and says which weights are gone

Everything that the next forward pass depends on is settled in `after_step`, so that an evaluation between two steps sees
what training sees, and a state saved there is complete. Hard masks (:attr:`Method.masks`) are enforced by the optimizer;
methods whose pruned weights live on keep them beside the model (:mod:`pruning.training.methods.masked`), and those that compute the
used weights reparametrize (:mod:`pruning.training.methods.reparametrized`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.masks import Masks
from pruning.training.enforcing import enforce
from pruning.training.optim import MaskedSGD


@dataclass(frozen=True)
class Budget:
    """The training that a method is part of: its length, its decay, its goal."""

    total_steps: int
    steps_per_epoch: int
    weight_decay: float  # of the weights
    sparsity: float | None = None  # the goal, for the methods that take one
    exclude: tuple[str, ...] = ()  # patterns of weights that stay dense
    include: tuple[str, ...] = ()  # patterns of parameters that are pruned besides the layers' weights


class Options(BaseModel):
    """A method's own settings; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Method:
    """Plain training, under fixed masks where there are any: the hooks do nothing more."""

    OPTIONS: ClassVar[type[Options]] = Options
    optimizers: ClassVar[tuple[str, ...]] = ("sgd", "adam", "adamw")  # that the method's rule is defined for

    def __init__(self, masks: Masks | None = None) -> None:
        self.masks = masks  # the hard masks in force
        self._handle: RemovableHandle | None = None

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns parameter groups for what the method adds; may register parametrizations on the model.

        Each group states its `weight_decay`, and with `lr_factor` the multiple of the learning rate that it takes.
        """
        return []

    def bind(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Takes the optimizer, and has it enforce the masks where there are any."""
        self.model, self.optimizer = model, optimizer
        if self.masks is not None:
            self.hold(self.masks)

    def hold(self, masks: Masks) -> None:
        """Has the optimizer keep the pruned weights and their momenta at +0 from now on, in place of earlier masks."""
        self.masks = masks
        if isinstance(self.optimizer, MaskedSGD):
            self.optimizer.set_masks(self.model, masks)
            return
        if self._handle is not None:
            self._handle.remove()
        self._handle = enforce(self.optimizer, self.model, masks)

    def penalty(self) -> Tensor | None:
        """Returns a 0-d tensor to add to the loss, or None."""
        return None

    def after_backward(self, step: int) -> None:
        """Runs between the backward pass of 0-based `step` and the optimizer's step; may change gradients."""

    def after_step(self, step: int) -> None:
        """Runs after the optimizer's step."""

    def hidden(self) -> dict[str, Tensor]:
        """Returns {name: values} of the weights that live on beside the model, which holds the used ones."""
        return {}

    def density(self) -> float:
        """Returns kept / total of the weights that the forward pass uses now."""
        return 1.0 if self.masks is None else self.masks.density

    def finish(self) -> Masks | None:
        """Returns the masks of the trained network, left plain and pruned; None where it is dense."""
        return self.masks

    def state(self) -> dict[str, Tensor]:
        """Returns what the method must keep to go on after an interruption, beyond the model's own state."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what :meth:`state` returned, after :meth:`bind`."""
