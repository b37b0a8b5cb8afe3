"""What says which weights stay: every criterion gives each prunable weight a score, and larger means keep.

A criterion is a function (model, weights, sample) -> {name: scores}. `weights` {name: tensor} stand in for the model's own
while it is scored, so the model itself is never written to; `sample` (:class:`pruning.deciding.criteria.base.Sample`) holds
the examples to score on, how to score them, and the generator.
"""

from __future__ import annotations

from dataclasses import dataclass

from pruning.registry import Function, Registry

OPTIONS = {
    "nothing": (),
    "inputs": ("rounds",),
    "labels": ("rounds", "scoring_mode", "samples_per_class", "scoring_batch"),
}


@dataclass(frozen=True)
class Criterion(Function):
    """A criterion: the sample that it `needs` and the number of rounds that it takes by default."""

    needs: str = "nothing"  # or "inputs" (their shape), or "labels" (inputs and labels)
    rounds: int = 1
    filters: bool = False  # whether it also ranks whole filters

    def __post_init__(self) -> None:
        if self.needs not in OPTIONS:
            raise ValueError(f"a criterion needs {', '.join(OPTIONS)}, not '{self.needs}'")

    @property
    def options(self) -> tuple[str, ...]:
        """Returns the settings of a prune phase that the criterion uses; others are refused."""
        return OPTIONS[self.needs]


_HERE = "pruning.deciding.criteria"
CRITERIA = Registry(
    "criterion",
    Criterion,
    {
        "magnitude": Criterion(f"{_HERE}.simple:magnitude", summary="the absolute value of the weight", filters=True),
        "random": Criterion(f"{_HERE}.simple:random", summary="uniform noise", filters=True),
        "snip": Criterion(
            f"{_HERE}.from_loss:snip", summary="connection sensitivity |g w| (Lee et al. 2019)", needs="labels"
        ),
        "grasp": Criterion(
            f"{_HERE}.from_loss:grasp",
            summary="gradient flow kept: w Hg at temperature 200 (Wang et al. 2020)",
            needs="labels",
        ),
        "grasp-inverted": Criterion(
            f"{_HERE}.from_loss:grasp_inverted", summary="grasp the other way round (control)", needs="labels"
        ),
        "grasp-magnitude": Criterion(
            f"{_HERE}.from_loss:grasp_magnitude", summary="|w Hg| (Frankle et al. 2021)", needs="labels"
        ),
        "synflow": Criterion(
            f"{_HERE}.synflow:synflow",
            summary="synaptic flow, data-free (Tanaka et al. 2020)",
            needs="inputs",
            rounds=100,
        ),
    },
)
