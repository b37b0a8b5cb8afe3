"""Retraining techniques: each is a choice of weights to start from and of a learning-rate schedule (Renda et al. 2020, 2.3, E).

With the dense training of T epochs, its weights W_g after g epochs and its schedule S held at S[T] beyond its end, retraining
for t epochs is

    fine-tune       W_T, constant S[T]             lr-rewind       W_T, the last t epochs of S
    weight-rewind   W_(T-t), the last t epochs     low-lr-rewind   W_(T-t), constant S[T]      (appendix E)
    reinit          fresh weights, S from its beginning, T + t epochs in all: the same budget as the others

Weights come with what belongs to them: BatchNorm statistics and momenta of the same epoch. For t > T there is nothing before
the initialization to rewind to: the weights are W_0, the schedule is as :func:`pruning.training.schedules.retraining` extends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pruning.errors import PlanError
from pruning.plan.lengths import in_steps, known_epochs, ratio, said
from pruning.plan.phases import Retrain
from pruning.registry import Entry, Registry


@dataclass(frozen=True)
class Technique(Entry):
    """Which weights to start from and the schedule that goes with them."""

    weights: Literal["final", "rewound", "fresh"]
    schedule: str


TECHNIQUES = Registry(
    "technique",
    Technique,
    {
        "fine-tune": Technique("final", "ft", summary="final weights, the last learning rate held constant"),
        "weight-rewind": Technique(
            "rewound", "lrw", summary="weights and learning rates of the last t epochs of training"
        ),
        "lr-rewind": Technique(
            "final", "lrw", summary="final weights, learning rates of the last t epochs of training"
        ),
        "low-lr-rewind": Technique(
            "rewound", "ft", summary="weights of t epochs before the end, the last learning rate (control)"
        ),
        "reinit": Technique(
            "fresh", "original", summary="fresh weights, the whole schedule and t epochs more (control)"
        ),
    },
)


def length(phase: Retrain, original: int | float | str) -> int | float | str:
    """Returns the retraining's own length: that of the dense training, `original`, unless the phase names one."""
    return original if phase.epochs is None else phase.epochs


def steps(phase: Retrain, original: int | float | str, per_epoch: int) -> int:
    """Returns how many steps the retraining runs, the dense training having been `original` long."""
    own = in_steps(length(phase, original), per_epoch)
    fresh = TECHNIQUES.find(phase.technique).weights == "fresh"
    return in_steps(original, per_epoch) + own if fresh else own


def first_step(phase: Retrain) -> int:
    """Returns the step of the dense training's schedule and data order that the retraining starts at.

    0 but with `rewind_step` alone; with `schedule` "original" its weights train over the whole schedule (Frankle et al. 2021,
    section 3).
    """
    return 0 if phase.rewind_step is None or phase.schedule is not None else phase.rewind_step


def epochs(phase: Retrain, original: int | float | str) -> int | float | None:
    """Returns how many epochs the retraining runs; None where a length is in steps, so that the data must be known."""
    own, whole = known_epochs(length(phase, original)), known_epochs(original)
    if TECHNIQUES.find(phase.technique).weights != "fresh":
        return own
    return None if own is None or whole is None else own + whole


def schedule(phase: Retrain) -> str:
    """Returns the name of the learning-rate schedule: the technique's unless the phase names one."""
    return phase.schedule or TECHNIQUES.find(phase.technique).schedule


def rewinds(phase: Retrain) -> bool:
    """Returns whether the retraining starts from a state that the training kept some epochs before its end."""
    return phase.rewind_step is None and TECHNIQUES.find(phase.technique).weights == "rewound"


def start_epoch(phase: Retrain, original: int | float | str) -> int | float | None:
    """Returns the epoch of the dense training whose state the retraining starts from; None where it starts from no epoch.

    Raises PlanError where that depends on the data, as a length is in steps.
    """
    if not rewinds(phase):
        return None
    own, whole = epochs(phase, original), known_epochs(original)
    if own is None or whole is None:
        raise PlanError(
            f"{phase.technique} for {said(length(phase, original))} of a training of {said(original)} starts from a step that "
            "depends on the data: give both lengths in epochs, which may be fractions, or both in steps"
        )
    return max(0, _whole(whole - own))


def start(
    phase: Retrain, original: int | float | str, per_epoch: int | None = None
) -> tuple[int | float | None, int | None]:
    """Returns the (epoch, step) of the dense training whose state the retraining starts from; both None where from none.

    Raises PlanError where it takes the steps of an epoch to know, as one length is in steps and the other in epochs.
    """
    if phase.rewind_step is not None or not rewinds(phase):
        return None, phase.rewind_step
    own = length(phase, original)
    if isinstance(own, str) and isinstance(original, str):
        return None, max(0, in_steps(original, 1) - in_steps(own, 1))
    if per_epoch is None or ratio(own, original) is not None:
        return start_epoch(phase, original), None
    begin = max(0, in_steps(original, per_epoch) - in_steps(own, per_epoch))
    return (begin // per_epoch, None) if begin % per_epoch == 0 else (None, begin)


def _whole(value: int | float) -> int | float:
    return int(value) if value == int(value) else round(value, 9)
