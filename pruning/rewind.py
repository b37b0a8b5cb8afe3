"""Retraining techniques: each is a choice of weights to start from and of a learning-rate schedule (Renda et al. 2020, 2.3, E).

With the dense training of T epochs, its weights W_g after g epochs and its schedule S held at S[T] beyond its end, retraining
for t epochs is

    fine-tune       W_T, constant S[T]             lr-rewind       W_T, the last t epochs of S
    weight-rewind   W_(T-t), the last t epochs     low-lr-rewind   W_(T-t), constant S[T]      (appendix E)
    reinit          fresh weights, S from its beginning, T + t epochs in all: the same budget as the others

Weights come with what belongs to them: BatchNorm statistics and momenta of the same epoch. For t > T there is nothing before
the initialization to rewind to: the weights are W_0 and the schedule is as :func:`pruning.schedules.retraining` extends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pruning import runs
from pruning.plan import PlanError, Retrain


@dataclass(frozen=True)
class Technique:
    """Which weights to start from and the schedule that goes with them."""

    weights: Literal["final", "rewound", "fresh"]
    schedule: str
    summary: str


TECHNIQUES = {
    "fine-tune": Technique("final", "ft", "final weights, the last learning rate held constant"),
    "weight-rewind": Technique("rewound", "lrw", "weights and learning rates of the last t epochs of training"),
    "lr-rewind": Technique("final", "lrw", "final weights, learning rates of the last t epochs of training"),
    "low-lr-rewind": Technique("rewound", "ft", "weights of t epochs before the end, the last learning rate (control)"),
    "reinit": Technique("fresh", "original", "fresh weights, the whole schedule and t epochs more (control)"),
}


def epochs(phase: Retrain, original: int) -> int:
    """Returns how many epochs the retraining runs, the dense training having had `original`."""
    own = original if phase.epochs is None else phase.epochs
    return original + own if TECHNIQUES[phase.technique].weights == "fresh" else own


def schedule(phase: Retrain) -> str:
    """Returns the name of the learning-rate schedule: the technique's unless the phase names one."""
    return phase.schedule or TECHNIQUES[phase.technique].schedule


def start_epoch(phase: Retrain, original: int) -> int | None:
    """Returns the epoch of the dense training whose state the retraining starts from; None where it starts from no epoch."""
    if phase.rewind_step is not None or TECHNIQUES[phase.technique].weights != "rewound":
        return None
    return max(0, original - epochs(phase, original))


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
        wish = f"{phase.technique} for {epochs(phase, original)} epochs starts from"
    return kept_state(root, start_epoch(phase, original), phase.rewind_step, wish)
