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
    if train.adopted is not None:
        _check_adopted(phase, train.adopted.schedule)
    own = techniques.TECHNIQUES.find(phase.technique).schedule
    if phase.rewind_step is not None:
        return phase
    changes = {"epochs": train.epochs if phase.epochs is None else phase.epochs}
    return override(phase, {**changes, "schedule": None if phase.schedule == own else phase.schedule})


def _check_adopted(phase: Retrain, known: bool) -> None:
    """Raises PlanError for a retraining that needs a training which never happened here: its states, or its learning rates."""
    if phase.rewind_step is not None or techniques.rewinds(phase):
        raise PlanError(
            f"{phase.technique} sets weights back to a state of the training, and this run was adopted: no earlier state is "
            "known; use lr-rewind, or fine-tune"
        )
    tuned = phase.schedule_lr is not None
    if known or (tuned and phase.epochs is not None and techniques.TECHNIQUES.find(phase.technique).weights == "final"):
        return
    what = "the length" if tuned else "the learning rates"
    raise PlanError(
        f"{phase.technique} follows {what} of the training, and this run was adopted without them: give --technique fine-tune --lr "
        "RATE --epochs N, or another tuned schedule with schedule_lr and epochs, or adopt the weights again with the settings "
        "that they were trained with: --set epochs=N --set lr=RATE --set milestones=[...]"
    )


def method_settings(phase: Retrain, train: Train) -> Train:
    """Returns the settings under which a retraining's method runs: the training's, of the retraining's length and method."""
    own = {key: getattr(phase, key) for key in ("method", "method_options", "sparsity", "exclude", "include")}
    total = techniques.epochs(phase, train.epochs)
    if total is None and techniques.TECHNIQUES.find(phase.technique).weights == "fresh":
        raise PlanError(f"{phase.technique} with a method needs lengths in epochs: it runs the training's and its own")
    epochs = techniques.length(phase, train.epochs) if total is None else total
    length = {"epochs": epochs, "milestones": (), "warmup_epochs": 0.0, "warmup_form": "linear"}
    return override(train, {**length, "schedule": "constant", "keep_epochs": (), "keep_steps": (), **own})
