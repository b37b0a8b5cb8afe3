"""Schedules of a retraining of N steps that follows a dense training of T steps, S its schedule.

Renda et al. (2020, section 2.3: FT, LRW) and Zimmer et al. (2023, sections 2.1 and C.1: SLR, CLR, LLR, ALLR, AccALLR):

- eta_1 is the greatest rate of S, eta_min the least after the dense warm-up.
- SLR, CLR, LLR and the ALLR family warm up over the first W = floor(N/10) steps along a cosine from 0: the first step
  runs at rate 0, step W at the full rate. The tuned schedules (constant, stepped, cosine, linear) warm up in the same
  shape over a given share of N.
- A retraining longer than the original training is defined for every name. FT stays constant. LRW runs the N - T
  steps that S does not have at the first rate after the dense warm-up and inserts them right there. The control
  "original" runs S from its beginning and then holds its last rate. The others stretch to any N; the lower bound of
  ALLR, min(N/T, 1), is then 1.

Deviations from the code of Zimmer et al.: SLR looks up list[floor(u L / (N - W))] from u = 0 on, where theirs counts
from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pruning.training.schedules.of_training import Schedule


@dataclass(frozen=True)
class Retraining:
    """A retraining of `steps` (N) after a training of `total_steps` (T) whose schedule is `original`, both in steps.

    The first `warmup_steps` of T are the training's warm-up. `impact` is d1 of the pruning, `lr` and `warmup` (a share of N) are
    the settings of a tuned schedule.
    """

    original: Schedule
    total_steps: int
    steps: int
    warmup_steps: int = 0
    impact: float = 0.0
    lr: float = 0.0
    warmup: float | None = None

    @cached_property
    def rates(self) -> list[float]:
        """Returns the rates of the original training, step by step."""
        return [self.original(step) for step in range(self.total_steps)]

    @cached_property
    def greatest(self) -> float:
        """Returns eta_1."""
        return max(self.rates)

    @cached_property
    def least(self) -> float:
        """Returns eta_min, the warm-up left out."""
        return min(self.rates[self.warmup_steps :])

    @property
    def shortened(self) -> float:
        """Returns d2 = min(N/T, 1) of Zimmer et al. (2023), equation 1."""
        return min(self.steps / self.total_steps, 1.0)

    def after_warmup(self, start: float, rate: Callable[[int, int], float]) -> Schedule:
        """Returns the schedule that rises along a cosine to `start` and then is rate(u, tail) of the u-th of the other steps."""
        ramp = self.steps // 10 if self.warmup is None else int(self.warmup * self.steps + 1e-9)
        tail = self.steps - ramp

        def schedule(step: int) -> float:
            if step < ramp:
                return start * (1 - math.cos(math.pi * step / ramp)) / 2
            return rate(min(step - ramp, tail), tail)

        return schedule

    def falling(self, start: float) -> Schedule:
        """Returns a linear fall from `start` to 0."""
        return self.after_warmup(start, lambda u, tail: start * (1 - u / tail))

    def waning(self, start: float, floor: float) -> Schedule:
        """Returns half a cosine from `start` to `floor`."""
        return self.after_warmup(
            start, lambda u, tail: floor + (start - floor) * (1 + math.cos(math.pi * u / tail)) / 2
        )

    def compressed(self, start: float) -> Schedule:
        """Returns the original schedule in the steps that there are, scaled so that its greatest rate is `start`."""

        def rate(u: int, tail: int) -> float:
            entry = min(u * self.total_steps // tail, self.total_steps - 1)
            return start * (self.rates[entry] / self.greatest if entry >= self.warmup_steps else 1.0)

        return self.after_warmup(start, rate)


def ft(given: Retraining) -> Schedule:
    """Returns fine-tuning: eta_min, constant."""
    least = given.least
    return lambda step: least


def lrw(given: Retraining) -> Schedule:
    """Returns the last N rates of S; where S has fewer, those beyond are its first rate after the warm-up, put in there."""
    extra = given.steps - given.total_steps

    def schedule(step: int) -> float:
        if extra <= 0 or step >= given.warmup_steps + extra:
            return given.original(step - extra)
        return given.original(min(step, given.warmup_steps))

    return schedule


def original(given: Retraining) -> Schedule:
    """Returns S from its beginning, held at its last rate."""
    return lambda step: given.original(min(step, given.total_steps - 1))


def slr(given: Retraining) -> Schedule:
    """Returns the whole of S compressed into N steps."""
    return given.compressed(given.greatest)


def clr(given: Retraining) -> Schedule:
    """Returns a cosine from eta_1 to eta_min."""
    return given.waning(given.greatest, given.least)


def llr(given: Retraining) -> Schedule:
    """Returns a linear fall from eta_1 to 0."""
    return given.falling(given.greatest)


def allr(given: Retraining) -> Schedule:
    """Returns a linear fall from eta_1 max(d1, d2) to 0 (Zimmer et al. 2023, equation 1; AccALLR by another d1)."""
    return given.falling(given.greatest * min(max(given.impact, given.shortened), 1.0))


def allr_d1(given: Retraining) -> Schedule:
    """Returns that of :func:`allr` with d1 alone."""
    return given.falling(given.greatest * min(given.impact, 1.0))


def allr_d2(given: Retraining) -> Schedule:
    """Returns that of :func:`allr` with d2 alone."""
    return given.falling(given.greatest * given.shortened)


def constant(given: Retraining) -> Schedule:
    """Returns the given rate, constant."""
    return given.after_warmup(given.lr, lambda u, tail: given.lr)


def stepped(given: Retraining) -> Schedule:
    """Returns S compressed into N steps and scaled to the given rate."""
    return given.compressed(given.lr)


def cosine(given: Retraining) -> Schedule:
    """Returns a cosine from the given rate to 0."""
    return given.waning(given.lr, 0.0)


def linear(given: Retraining) -> Schedule:
    """Returns a linear fall from the given rate to 0."""
    return given.falling(given.lr)
