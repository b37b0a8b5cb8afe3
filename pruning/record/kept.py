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
    path = root / state_file(root, epoch, step)
    if path.is_file():
        return path
    what, point = ("step", step) if step is not None else ("epoch", epoch)
    found = runs.kept_steps(root) if step is not None else runs.kept_epochs(root)
    raise PlanError(
        f"{wish} {what} {point} of '{root}', which was not kept (kept: {', '.join(map(str, found)) or 'none'}); "
        f"train with --set keep_{what}s=[{point}]"
    )


def state_file(root: Path, epoch: int | float | None, step: int | None) -> str:
    """Returns the name of the file that holds the state after so many epochs, which may be a fraction, or steps."""
    if step is None and isinstance(epoch, float):
        step = round(epoch * steps_per_epoch(root))
    return runs.epoch_file(int(epoch or 0)) if step is None else runs.step_file(step)


def steps_per_epoch(root: Path) -> int:
    """Returns how many steps an epoch of the training had, as its log says."""
    log = runs.log(root)
    if not log or (len(log) == 1 and _short(root)):
        raise PlanError(f"the log of run '{root}' holds no whole epoch, so that no part of one is known")
    return int(log[0]["step"])


def _short(root: Path) -> bool:
    """Returns whether the training may have ended before its first epoch did."""
    whole = lengths.known_epochs(runs.train_settings(root).epochs)
    return whole is None or whole < 1


def find_state(phase: Retrain, root: Path, original: int | float | str) -> Path | None:
    """Returns the file that holds the state to rewind to, or None; raises PlanError where that state was not kept."""
    wish = f"{phase.technique} starts from"
    if phase.rewind_step is None:
        wish = f"{phase.technique} for {lengths.said(techniques.length(phase, original))} starts from"
    if not techniques.rewinds(phase):
        return kept_state(root, None, phase.rewind_step, wish)
    both = (techniques.epochs(phase, original), lengths.known_epochs(original))
    per_epoch = steps_per_epoch(root) if None in both else 1  # of no account where both are in epochs
    return kept_state(root, *techniques.start(phase, original, per_epoch), wish)
