"""What the engine tells while it works: plain values for one callable, `tell(event)`. The engine itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PhaseStarted:
    """A phase begins, or goes on at `epoch` after an interruption; `reused` is True where it was done before."""

    run: str
    phase: str
    epochs: float
    steps: int
    epoch: int = 0
    reused: bool = False


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units ("steps", "rounds", "batches", ...) of the present phase; told at most ten times a second."""

    done: int
    total: int
    unit: str = "steps"


@dataclass(frozen=True)
class Downloading:
    """A file of a data set begins to arrive from `url`, to lie in `folder`; of `size` bytes, 0 where that is not known."""

    url: str
    folder: str
    size: int


@dataclass(frozen=True)
class EpochDone:
    """The line that went to log.jsonl: epoch, step, lr, train_loss, val_metric, density, seconds, images_per_second ...

    `metric` is the name of its metric, `scale` times which it is printed; 100: percent.
    """

    record: dict[str, Any]
    metric: str = "accuracy"
    scale: float = 100.0


@dataclass(frozen=True)
class Warned:
    """Something that the user should know and that stops nothing."""

    text: str


@dataclass(frozen=True)
class PhaseDone:
    """A phase ended; `summary` is the result with the keys of summary.json."""

    run: str
    summary: dict[str, Any] = field(default_factory=dict)
    reused: bool = False


Event = PhaseStarted | Progress | Downloading | EpochDone | Warned | PhaseDone
Tell = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listens to nothing."""
