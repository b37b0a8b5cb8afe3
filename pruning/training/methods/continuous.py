"""CS, continuous sparsification (Savarese et al. 2020).

Every weight w has a gate m that starts at s_0: used weight = w sigmoid(beta m) / sigmoid(s_0), and the loss gains
lambda sum sigmoid(beta m). beta rises from 1 to `beta` along beta^(t/T). Weights with m > 0 survive, with their soft
factor; the sparsity is an outcome of `s_0` and `l1`, which is lambda.

`anneal` raises beta every "step" (Zimmer et al.) or every "epoch", t/T = epoch/(E - 1) (Savarese et al.). Zimmer et
al.'s code decays the gates like weights (`gate_decay`) and adds wd/2 sum w^2 to the loss beside the optimizer's own
decay (`decay_in_loss`); Savarese et al. do neither, which is the default. Their gates are on convolutions only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pruning.training.methods.base import Budget, Options
from pruning.training.methods.reparametrized import Formula, Reparametrized, group


class CSOptions(Options):
    """`s_0` and `l1` set the sparsity; `beta` is the final temperature."""

    s_0: float = 0.0
    l1: float = Field(1e-8, ge=0)
    beta: float = Field(200.0, ge=1)
    anneal: Literal["step", "epoch"] = "step"
    gate_decay: float = Field(0.0, ge=0)
    decay_in_loss: float = Field(0.0, ge=0)


class Temperature:
    """The beta that all gates of a model share."""

    def __init__(self) -> None:
        self.beta = 1.0


class Gated(Formula):
    """w sigmoid(beta m) / sigmoid(s_0)."""

    def __init__(self, like: Tensor, s_0: float, temperature: Temperature) -> None:
        super().__init__()
        self.temperature = temperature
        self.full = float(torch.tensor(s_0).sigmoid())
        self.m = nn.Parameter(torch.full_like(like, s_0))

    def gates(self) -> Tensor:
        """Returns sigmoid(beta m)."""
        return (self.temperature.beta * self.m).sigmoid()

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the gated weights."""
        return weight * (self.gates() / self.full)

    def kept(self, weight: Tensor) -> Tensor:
        """Returns which gates are above 0."""
        return self.m > 0


class CS(Reparametrized):
    """Continuous sparsification: one gate per weight, hardened by a rising temperature."""

    OPTIONS = CSOptions

    def __init__(self, budget: Budget, options: CSOptions) -> None:
        super().__init__(budget)
        self.options, self.temperature = options, Temperature()

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns the group of the gates."""
        self.parametrize(model, lambda weight: Gated(weight, self.options.s_0, self.temperature))
        return [group((p for f in self.formulas.values() for p in f.parameters()), self.options.gate_decay)]

    def penalty(self) -> Tensor:
        """Returns lambda sum sigmoid(beta m), and decay/2 sum w^2 where asked for."""
        gated = [formula for formula in self.formulas.values() if isinstance(formula, Gated)]
        total = self.options.l1 * torch.stack([formula.gates().sum() for formula in gated]).sum()
        if self.options.decay_in_loss:
            squares = torch.stack([weight.square().sum() for weight in self.weights.values()]).sum()
            total = total + self.options.decay_in_loss / 2 * squares
        return total

    def after_step(self, step: int) -> None:
        """Raises beta for the next step; after the last one it is the final value."""
        done = step + 1
        if self.options.anneal == "epoch":
            epochs = math.ceil(self.budget.total_steps / self.budget.steps_per_epoch)
            share = min(done // self.budget.steps_per_epoch / max(epochs - 1, 1), 1.0)
        else:
            share = done / self.budget.total_steps
        self.temperature.beta = self.options.beta**share

    def state(self) -> dict[str, Tensor]:
        """Returns beta; the gates are in the model's state."""
        return {"beta": torch.tensor(self.temperature.beta, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes beta back."""
        self.temperature.beta = float(state["beta"])
