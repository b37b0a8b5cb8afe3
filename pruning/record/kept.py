"""The states that a training kept on its way, to be rewound to or pruned."""

from __future__ import annotations

from pathlib import Path

from pruning.plan import PlanError, Retrain, lengths, techniques
from pruning.record import runs


def kept_state(root: Path, epoch: int | float | None, step: int | None, wish: str) -> Path | None:
    """Returns the file of the state that the training kept at an epoch or a step; None where both are None.

    Raises PlanError, which begins with `wish`, where that state was not kept.
    """
    if epoch is None and step is None:
        return None
    path = root / (state_file(root, epoch or 0) if step is None else runs.step_file(step))
    if path.is_file():
        return path
    what, point = ("step", step) if step is not None else ("epoch", epoch)
    steps = ", ".join(map(str, runs.kept_steps(root))) or "none"
    epochs = ", ".join(map(str, runs.kept_epochs(root))) or "none"
    place, kept = str(point), steps if step is not None else epochs
    if isinstance(epoch, float):
        place, kept = f"{epoch} (step {_step(root, epoch)})", f"epochs {epochs}; steps {steps}"
    raise PlanError(
        f"{wish} {what} {place} of '{root}', which was not kept (kept: {kept}); train with --set keep_{what}s=[{point}]"
    )


def state_file(root: Path, epoch: int | float) -> str:
    """Returns the name of the file that a training keeps the state in after so many epochs, which may be a fraction."""
    return runs.epoch_file(epoch) if isinstance(epoch, int) else runs.step_file(_step(root, epoch))


def steps_per_epoch(root: Path) -> int:
    """Returns how many steps an epoch of the finished training had."""
    log = runs.log(root)
    if not log or not runs.is_done(root):
        raise PlanError(
            f"run '{root}' has no log of a finished training, so that the steps of its epochs are not known"
        )
    return round(log[-1]["step"] / runs.read_summary(root)["epochs"])


def _step(root: Path, epoch: int | float) -> int:
    return lengths.point(epoch, runs.train_settings(root).epochs, steps_per_epoch(root))


def find_state(phase: Retrain, root: Path, original: int | float | str) -> Path | None:
    """Returns the file that holds the state to rewind to, or None; raises PlanError where that state was not kept."""
    wish = f"{phase.technique} starts from"
    own = techniques.length(phase, original)
    if phase.rewind_step is None:
        wish = f"{phase.technique} for {lengths.said(own)} starts from"
    if not techniques.rewinds(phase):
        return kept_state(root, None, phase.rewind_step, wish)
    mixed = lengths.ratio(own, original) is None  # one in steps, the other in epochs
    return kept_state(root, *techniques.start(phase, original, steps_per_epoch(root) if mixed else None), wish)
