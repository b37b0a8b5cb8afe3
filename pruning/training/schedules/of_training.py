"""Schedules of a dense training: rate by 0-based step, without the warm-up, which is the same for all."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Course:
    """A dense training as its schedule sees it, in steps: `drops` are its milestones, `restarts` its pruning events."""

    lr: float
    total_steps: int
    warmup_steps: int = 0
    drops: Sequence[int] = ()
    gamma: float = 0.1
    restarts: Sequence[int] = ()

    def share(self, step: int) -> float:
        """Returns how much of the way from the end of the warm-up to the end of the training lies behind a step, in [0, 1)."""
        return max(step - self.warmup_steps, 0) / max(self.total_steps - self.warmup_steps, 1)


def constant(course: Course) -> Schedule:
    """Returns one rate throughout."""
    return lambda step: course.lr


def stepped(course: Course) -> Schedule:
    """Returns the rate multiplied by gamma at every milestone."""
    return lambda step: course.lr * course.gamma ** sum(step >= drop for drop in course.drops)


def linear(course: Course) -> Schedule:
    """Returns a rate that falls linearly to 0 over the steps after the warm-up."""
    return lambda step: course.lr * (1 - course.share(step))


def cosine(course: Course) -> Schedule:
    """Returns a rate that falls to 0 along half a cosine over the steps after the warm-up."""
    span = max(course.total_steps - course.warmup_steps, 1)
    return lambda step: course.lr * (1 + math.cos(math.pi * max(step - course.warmup_steps, 0) / span)) / 2


def cyclic(course: Course) -> Schedule:
    """Returns a rate that falls linearly to 0 from pruning event to pruning event, starting anew at each."""
    edges = [0, *course.restarts, course.total_steps]

    def schedule(step: int) -> float:
        i = bisect.bisect_right(edges, step)
        return course.lr * (edges[i] - step) / (edges[i] - edges[i - 1])

    return schedule
