"""Phases with nothing left open, so that two ways to say the same are one run."""

from __future__ import annotations

from pruning.errors import PlanError
from pruning.plan import techniques
from pruning.plan.overrides import override
from pruning.plan.phases import Prune, Retrain, Train


def complete(phase: Prune | Retrain, train: Train) -> Prune | Retrain:
    """Returns the phase with its open settings filled in, so that two ways to say the same are one run."""
    if isinstance(phase, Prune):
        return phase
    own = techniques.TECHNIQUES.find(phase.technique).schedule
    if phase.rewind_step is not None:
        return phase
    changes = {"epochs": train.epochs if phase.epochs is None else phase.epochs}
    return override(phase, {**changes, "schedule": None if phase.schedule == own else phase.schedule})


def method_settings(phase: Retrain, train: Train) -> Train:
    """Returns the settings under which a retraining's method runs: the training's, of the retraining's length and method."""
    own = {key: getattr(phase, key) for key in ("method", "method_options", "sparsity", "exclude", "include")}
    total = techniques.epochs(phase, train.epochs)
    if total is None and techniques.TECHNIQUES.find(phase.technique).weights == "fresh":
        raise PlanError(f"{phase.technique} with a method needs lengths in epochs: it runs the training's and its own")
    epochs = techniques.length(phase, train.epochs) if total is None else total
    length = {"epochs": epochs, "milestones": (), "warmup_epochs": 0.0}
    return override(train, {**length, "schedule": "constant", "keep_epochs": (), "keep_steps": (), **own})
