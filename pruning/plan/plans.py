"""A plan is a list of phases; cycles of pruning and retraining are written as one entry and expanded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pruning.errors import PlanError
from pruning.plan.checks import make
from pruning.plan.lengths import Length, said
from pruning.plan.phases import Phase, Prune, Retrain, Train
from pruning.plan.rules import Settings

MOST_CYCLES = 1000


class Iterate(Settings):
    """Cycles of pruning and retraining up to `sparsity`: expanded into its phases when a plan is read.

    With `cycles` J the density after cycle j is d^(j/J); with `rate` p it is (1-p)^j, the last cycle ending on the goal.
    A `budget` is shared out over the retrainings: whole epochs or steps as floor(budget / J) each and the rest to the last,
    others evenly; `fresh_optimizer`
    resets the momenta before the first retraining alone (both as in Zimmer et al. 2023, their code).
    """

    phase: Literal["iterate"] = "iterate"
    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)]
    rate: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    cycles: Annotated[int, Field(ge=1, le=MOST_CYCLES)] | None = None
    budget: Length | None = None
    fresh_optimizer: bool = False
    prune: dict[str, Any] = Field(default={})
    retrain: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _one_ladder(self) -> Iterate:
        if self.rate is not None and self.cycles is not None:
            raise ValueError("give rate or cycles, not both")
        if "sparsity" in self.prune:
            raise ValueError("the sparsity of each cycle follows from the goal; leave it out of prune")
        if self.budget is not None and "epochs" in self.retrain:
            raise ValueError("give budget or the epochs of each retraining, not both")
        if self.fresh_optimizer and "optimizer_state" in self.retrain:
            raise ValueError("give fresh_optimizer or the optimizer_state of each retraining, not both")
        return self

    def densities(self, start: float = 1.0) -> list[float]:
        """Returns the density after each cycle, from a network whose density is `start`; the last is the goal exactly."""
        goal = 1.0 - self.sparsity
        if goal >= start:
            raise PlanError(f"sparsity {self.sparsity:g} is not above the present sparsity, {1 - start:g}")
        if self.cycles is not None:
            cycles = self.cycles
            ladder = [start * (goal / start) ** (j / cycles) for j in range(1, cycles)]
        else:
            rate = 0.2 if self.rate is None else self.rate
            cycles = max(1, math.ceil(math.log(goal / start) / math.log(1.0 - rate) - 1e-9))
            if cycles > MOST_CYCLES:
                raise PlanError(f"rate {rate:g} takes {cycles:,} cycles to the goal; allowed are up to {MOST_CYCLES:,}")
            ladder = [start * (1.0 - rate) ** j for j in range(1, cycles)]
        return [*ladder, goal]

    def phases(self, start: float = 1.0) -> list[Prune | Retrain]:
        """Returns prune, retrain, prune, retrain ... up to the goal."""
        out: list[Prune | Retrain] = []
        densities = self.densities(start)
        cycles = len(densities)
        for j, density in enumerate(densities, start=1):
            retrain = _without_phase(self.retrain)
            if self.budget is not None:
                retrain["epochs"] = shared_out(self.budget, cycles, last=j == cycles)
            if self.fresh_optimizer and j == 1:
                retrain["optimizer_state"] = "reset"
            out.append(make(Prune, {**_without_phase(self.prune), "sparsity": round(1.0 - density, 12)}))
            out.append(make(Retrain, retrain))
        return out


def shared_out(budget: int | float | str, cycles: int, last: bool) -> int | float | str:
    """Returns a cycle's part of a budget: whole epochs and steps as floor(budget / cycles), the rest to the last."""
    if isinstance(budget, float):
        return budget / cycles
    whole = budget if isinstance(budget, int) else int(budget.split()[0])
    if whole < cycles:
        raise PlanError(f"a budget of {said(budget)} does not go round {cycles} cycles")
    part = whole // cycles + (whole % cycles if last else 0)
    return part if isinstance(budget, int) else f"{part} steps"


def _without_phase(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "phase"}


class Plan(Settings):
    """A named list of phases, the first of which trains, with where it comes from and what it should reach."""

    name: str
    summary: str = ""
    citation: str = ""
    phases: tuple[Annotated[Phase, Field(discriminator="phase")], ...]
    expected: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _ordered(self) -> Plan:
        if not self.phases or self.phases[0].phase != "train":
            raise ValueError("a plan starts with a train phase")
        if any(phase.phase == "train" for phase in self.phases[1:]):
            raise ValueError("a plan has one train phase, its first")
        reached = {"weights": 0.0, "filters": 0.0}  # shares of weights and of filters, which do not compare
        pruned = False
        for phase in self.phases:
            if isinstance(phase, Prune):
                before = reached[phase.structure]
                if phase.filter_rates is None and phase.sparsity < before - 1e-12:
                    raise ValueError(f"prune phases must not become less sparse: {phase.sparsity:g} after {before:g}")
                reached[phase.structure] = max(before, phase.sparsity)
                pruned = pruned or phase.sparsity > 0 or phase.filter_rates is not None
            elif isinstance(phase, Retrain):
                sparse = pruned or self.train.method != "none"
                if phase.method != "none" and sparse:
                    raise ValueError(f"a retrain phase with method '{phase.method}' starts from a dense network")
                if phase.method == "none" and not sparse:
                    raise ValueError("a retrain phase needs a prune phase before it, or a method")
                pruned = True
        return self

    @property
    def train(self) -> Train:
        """Returns the train phase."""
        assert isinstance(self.phases[0], Train)
        return self.phases[0]
