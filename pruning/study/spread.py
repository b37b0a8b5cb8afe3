"""Values of runs that differ in their seed alone, taken together: their middle, and how far they spread about it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """n values: median with min and max, or mean -+ sample standard deviation; `deviation` is the latter, None of one value."""

    n: int
    middle: float
    low: float
    high: float
    deviation: float | None = None

    @property
    def half(self) -> float:
        """Returns half the distance between the bounds."""
        return (self.high - self.low) / 2


def spread(values: Sequence[float], convention: str = "mean") -> Spread | None:
    """Returns the values' middle and spread by a convention, "median" or "mean"; None where there is no value."""
    if not values:
        return None
    if convention == "median":
        return Spread(len(values), statistics.median(values), min(values), max(values))
    mean = statistics.fmean(values)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    around = deviation or 0.0
    return Spread(len(values), mean, mean - around, mean + around, deviation)
