"""Phases with nothing left open, so that two ways to say the same are one run. Nothing here imports torch."""

from __future__ import annotations

from pruning import rewind, usercode
from pruning.plan import Prune, Retrain, Train, override


def stamp(train: Train) -> tuple[Train, dict[str, str]]:
    """Returns the settings with the digests of the user's source files, and the absolute paths of those files."""
    code: dict[str, str] = {}
    for key, spec in (("model_code", train.model), ("data_code", train.data)):
        if usercode.is_code(spec):
            path, sha = usercode.resolve(spec)
            code[key] = str(path)
            train = override(train, {key: sha})
    return train, code


def settle(phase: Prune | Retrain, train: Train) -> Prune | Retrain:
    """Returns the phase with its open settings settled, so that two ways to say the same are one run."""
    if isinstance(phase, Prune):
        return phase
    own = rewind.TECHNIQUES[phase.technique].schedule
    if phase.rewind_step is not None:
        return phase
    changes = {"epochs": train.epochs if phase.epochs is None else phase.epochs}
    return override(phase, {**changes, "schedule": None if phase.schedule == own else phase.schedule})


def method_settings(phase: Retrain, train: Train) -> Train:
    """Returns the settings under which a retraining's method runs: the training's, of the retraining's length and method."""
    own = {key: getattr(phase, key) for key in ("method", "method_options", "sparsity", "exclude")}
    length = {"epochs": rewind.epochs(phase, train.epochs), "milestones": (), "warmup_epochs": 0.0}
    return override(train, {**length, "schedule": "constant", "keep_epochs": (), "keep_steps": (), **own})
