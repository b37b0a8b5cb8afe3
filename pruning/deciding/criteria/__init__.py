"""What says which weights stay: every criterion gives each prunable weight a score, and larger means keep.

A criterion is a function (model, weights, ask) -> {name: scores}. `weights` {name: tensor} stand in for the model's own
while it is scored, so the model itself is never written to; `ask` (:class:`Ask`) holds the sample and the generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from pruning.deciding.criteria.base import Ask
from pruning.deciding.criteria.from_loss import grasp, grasp_inverted, grasp_magnitude, snip
from pruning.deciding.criteria.simple import magnitude, random
from pruning.deciding.criteria.synflow import synflow

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
    "snip": Criterion(snip, "connection sensitivity |g w| (Lee et al. 2019)", needs="labels"),
    "grasp": Criterion(grasp, "gradient flow kept: w Hg at temperature 200 (Wang et al. 2020)", needs="labels"),
    "grasp-inverted": Criterion(grasp_inverted, "grasp the other way round (control)", needs="labels"),
    "grasp-magnitude": Criterion(grasp_magnitude, "|w Hg| (Frankle et al. 2021)", needs="labels"),
    "synflow": Criterion(synflow, "synaptic flow, data-free (Tanaka et al. 2020)", rounds=100, needs="inputs"),
}
