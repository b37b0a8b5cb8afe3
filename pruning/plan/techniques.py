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


def epochs(phase: Retrain, original: int) -> int:
    """Returns how many epochs the retraining runs, the dense training having had `original`."""
    own = original if phase.epochs is None else phase.epochs
    return original + own if TECHNIQUES.find(phase.technique).weights == "fresh" else own


def schedule(phase: Retrain) -> str:
    """Returns the name of the learning-rate schedule: the technique's unless the phase names one."""
    return phase.schedule or TECHNIQUES.find(phase.technique).schedule


def start_epoch(phase: Retrain, original: int) -> int | None:
    """Returns the epoch of the dense training whose state the retraining starts from; None where it starts from no epoch."""
    if phase.rewind_step is not None or TECHNIQUES.find(phase.technique).weights != "rewound":
        return None
    return max(0, original - epochs(phase, original))
