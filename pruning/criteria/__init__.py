"""What says which weights stay: every criterion gives each prunable weight a score, and larger means keep.

A criterion is a function (model, weights, ask) -> {name: scores}. `weights` {name: tensor} stand in for the model's own
while it is scored, so the model itself is never written to; `ask` (:class:`Ask`) holds the sample and the generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from pruning.criteria.base import Ask
from pruning.criteria.simple import magnitude, random

__all__ = ["CRITERIA", "Ask", "Criterion"]


@dataclass(frozen=True)
class Criterion:
    """A criterion's function, a line on it, the number of rounds it takes by default, and what sample it `needs`."""

    score: Callable[[nn.Module, dict[str, Tensor], Ask], dict[str, Tensor]]
    summary: str
    rounds: int = 1
    needs: str = "nothing"  # or "inputs" (their shape), or "labels" (inputs and labels)


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude, "the absolute value of the weight"),
    "random": Criterion(random, "uniform noise"),
}
