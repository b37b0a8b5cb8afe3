"""The states that a training kept on its way, to be rewound to or pruned."""

from __future__ import annotations

from pathlib import Path

from pruning.plan import PlanError, Retrain, techniques
from pruning.record import runs


def kept_state(root: Path, epoch: int | None, step: int | None, wish: str) -> Path | None:
    """Returns the file of the state that the training kept at an epoch or a step; None where both are None.

    Raises PlanError, which begins with `wish`, where that state was not kept.
    """
    if epoch is None and step is None:
        return None
    path = root / (runs.step_file(step) if step is not None else runs.epoch_file(epoch or 0))
    if path.is_file():
        return path
    what, point = ("step", step) if step is not None else ("epoch", epoch)
    found = runs.kept_steps(root) if step is not None else runs.kept_epochs(root)
    raise PlanError(
        f"{wish} {what} {point} of '{root}', which was not kept (kept: {', '.join(map(str, found)) or 'none'}); "
        f"train with --set keep_{what}s=[{point}]"
    )


def find_state(phase: Retrain, root: Path, original: int) -> Path | None:
    """Returns the file that holds the state to rewind to, or None; raises PlanError where that state was not kept."""
    wish = f"{phase.technique} starts from"
    if phase.rewind_step is None:
        wish = f"{phase.technique} for {techniques.epochs(phase, original)} epochs starts from"
    return kept_state(root, techniques.start_epoch(phase, original), phase.rewind_step, wish)
