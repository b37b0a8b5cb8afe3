"""Learning rates as pure functions of the step: of the dense training, and of the retraining that follows a pruning.

Steps are iterations, counted from 0. :func:`dense` gives the schedule of the original training, :func:`retraining` those of
:mod:`pruning.training.schedules.of_retraining`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pruning.errors import PlanError
from pruning.registry import Function, Registry
from pruning.training.schedules import of_retraining as _retrain
from pruning.training.schedules import of_training as _dense
from pruning.training.schedules.impact import accuracy_impact, norm_impact
from pruning.training.schedules.of_retraining import Retraining
from pruning.training.schedules.of_training import Course, Schedule

__all__ = [
    "RETRAIN_SCHEDULES",
    "SCHEDULES",
    "Course",
    "DenseSchedule",
    "RetrainSchedule",
    "Retraining",
    "Schedule",
    "accuracy_impact",
    "dense",
    "norm_impact",
    "retraining",
    "tuned",
]  # fmt: skip


@dataclass(frozen=True)
class DenseSchedule(Function):
    """A function (:class:`Course`) -> rate by step; `options` are the training's settings that it alone uses.

    `restarts` says that it starts anew at the pruning events of a method.
    """

    options: tuple[str, ...] = ()
    restarts: bool = False


@dataclass(frozen=True)
class RetrainSchedule(Function):
    """A function (:class:`Retraining`) -> rate by step.

    `impact` says what its d1 is computed from, "norm" or "accuracy". A `tuned` one has a rate and a warm-up of its own.
    """

    impact: str | None = None
    tuned: bool = False


SCHEDULES = Registry(
    "schedule",
    DenseSchedule,
    {
        "constant": DenseSchedule(_dense.constant, summary="one rate throughout"),
        "stepped": DenseSchedule(
            _dense.stepped, summary="multiplied by gamma at every milestone", options=("milestones", "gamma")
        ),
        "linear": DenseSchedule(_dense.linear, summary="falls linearly to 0 over the steps after the warm-up"),
        "cosine": DenseSchedule(
            _dense.cosine, summary="falls to 0 along half a cosine over the steps after the warm-up"
        ),
        "cyclic": DenseSchedule(
            _dense.cyclic,
            summary="falls linearly to 0 from pruning event to pruning event, starting anew at each (method gmp)",
            restarts=True,
        ),
    },
)

RETRAIN_SCHEDULES = Registry(
    "retraining schedule",
    RetrainSchedule,
    {
        "ft": RetrainSchedule(_retrain.ft, summary="the least rate of the original schedule, constant (fine-tuning)"),
        "lrw": RetrainSchedule(
            _retrain.lrw,
            summary="the last N rates of the original schedule (learning-rate rewinding, Renda et al. 2020)",
        ),
        "slr": RetrainSchedule(
            _retrain.slr,
            summary="the whole original schedule compressed into N steps, after a warm-up (Le & Hua 2021)",
        ),
        "clr": RetrainSchedule(
            _retrain.clr,
            summary="cosine from the greatest original rate to the least, after a warm-up (Le & Hua 2021)",
        ),
        "llr": RetrainSchedule(
            _retrain.llr,
            summary="linear from the greatest original rate to 0, after a warm-up (Zimmer et al. 2023)",
        ),
        "allr": RetrainSchedule(
            _retrain.allr,
            summary="linear to 0 from a rate that adapts to the norm lost and the budget (Zimmer et al. 2023, eq. 1)",
            impact="norm",
        ),
        "allr-d1": RetrainSchedule(_retrain.allr_d1, summary="like allr, from the norm lost alone", impact="norm"),
        "allr-d2": RetrainSchedule(_retrain.allr_d2, summary="like allr, from the budget alone"),
        "accallr": RetrainSchedule(
            _retrain.allr,
            summary="like allr, with the training accuracy lost in place of the norm (Zimmer et al. 2023, eq. 3)",
            impact="accuracy",
        ),
        "constant": RetrainSchedule(_retrain.constant, summary="a given rate, constant", tuned=True),
        "stepped": RetrainSchedule(
            _retrain.stepped,
            summary="the original schedule compressed into N steps and scaled to a given first rate",
            tuned=True,
        ),
        "cosine": RetrainSchedule(_retrain.cosine, summary="cosine from a given rate to 0", tuned=True),
        "linear": RetrainSchedule(_retrain.linear, summary="linear from a given rate to 0", tuned=True),
        "original": RetrainSchedule(
            _retrain.original, summary="the original schedule from its beginning, held at its last rate"
        ),
    },
)


def dense(
    kind: str,
    *,
    lr: float,
    total_steps: int,
    steps_per_epoch: int,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    warmup_epochs: float = 0.0,
    warmup_form: str = "linear",
    restarts: Sequence[int] = (),
) -> Schedule:
    """Returns the schedule step -> rate of a dense training of `total_steps`; beyond them the last rate is held.

    The warm-up is linear from 0, lr * step / W over W = round(warmup_epochs * steps_per_epoch) steps, or exponential from
    lr / 100, lr * 0.01^(1 - step / W). Milestones are in
    epochs, counted from step 0, the warm-up included: the rate drops at step round(milestone * steps_per_epoch).
    `restarts` are the steps at which a cyclic schedule starts anew (:func:`pruning.training.ramps.pruning_events`).
    """
    warmup = round(warmup_epochs * steps_per_epoch)
    drops = [round(milestone * steps_per_epoch) for milestone in milestones]
    rate: Schedule = SCHEDULES.find(kind).load()(Course(lr, total_steps, warmup, drops, gamma, restarts))

    def schedule(step: int) -> float:
        step = min(step, total_steps - 1)
        if step >= warmup:
            return rate(step)
        return rate(step) * (step / warmup if warmup_form == "linear" else 0.01 ** (1 - step / warmup))

    return schedule


def retraining(
    name: str,
    original: Schedule,
    *,
    total_steps: int,
    steps: int,
    impact: float | None = None,
    warmup_steps: int = 0,
    lr: float | None = None,
    warmup: float = 0.0,
) -> Schedule:
    """Returns the schedule step -> rate of a retraining of `steps` (N) steps, by one of the names of RETRAIN_SCHEDULES.

    `original` is the schedule of the dense training of `total_steps` (T) steps, the first `warmup_steps` of which are
    its warm-up. `impact` is d1 of Zimmer et al., equation 1 or 3 (:func:`norm_impact`, :func:`accuracy_impact`), of
    the schedules that name one. `lr` and `warmup`, the initial rate and the share of N to warm up over, belong to the
    tuned ones.
    """
    entry = RETRAIN_SCHEDULES.find(name)
    _check(name, entry, total_steps, steps, impact, warmup_steps, lr, warmup)
    given = Retraining(
        original, total_steps, steps, warmup_steps, impact or 0.0, lr or 0.0, warmup if entry.tuned else None
    )
    schedule: Schedule = entry.load()(given)
    return schedule


def tuned() -> list[str]:
    """Returns the names of the retraining schedules that have a rate and a warm-up of their own."""
    return [name for name, entry in RETRAIN_SCHEDULES.items() if entry.tuned]


def _check(
    name: str,
    entry: RetrainSchedule,
    total_steps: int,
    steps: int,
    impact: float | None,
    warmup_steps: int,
    lr: float | None,
    warmup: float,
) -> None:
    if steps < 1 or total_steps < 1:
        raise PlanError(
            f"a retraining schedule needs at least 1 step of each training, not {steps} after {total_steps}"
        )
    if not 0 <= warmup_steps < total_steps:
        raise PlanError(
            f"warmup_steps must lie in [0, {total_steps}), the original training's steps, not {warmup_steps}"
        )
    if entry.impact and (impact is None or not math.isfinite(impact) or not 0 <= impact <= 1):
        raise PlanError(
            f"retraining schedule '{name}' needs the impact d1 of the pruning, a number from 0 to 1, not {impact}"
        )
    if entry.tuned:
        if lr is None or not (math.isfinite(lr) and lr > 0):
            raise PlanError(f"retraining schedule '{name}' needs an initial rate above 0, not {lr}")
        if not 0 <= warmup < 1:
            raise PlanError(f"the warm-up of a retraining schedule is a share of its steps in [0, 1), not {warmup}")
    elif lr is not None or warmup:
        raise PlanError(f"an initial rate and a warm-up are not used by '{name}', only by {', '.join(tuned())}")
