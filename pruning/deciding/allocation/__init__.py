"""How a density is shared out among the layers: rules that count by shape, or that make scores of all layers comparable.

Layers are in network order, which is the order of the scores. Every allocation keeps exactly round(density * total) of all
scored weights (:func:`pruning.deciding.allocation.sharing.allocate`). What its function is called with, by what it `gives`:

    ranking   (scores, alive) -> scores             one ranking over all layers
    counts    (layers) -> (parts, fixed counts)     :class:`pruning.deciding.allocation.counts.Layers`, rounded and capped there
"""

from __future__ import annotations

from dataclasses import dataclass

from pruning.registry import Function, Registry

GIVES = ("ranking", "counts")


@dataclass(frozen=True)
class Allocation(Function):
    """An allocation: what its function `gives`, whether it takes layer `rates`, and whether it applies to filters."""

    gives: str = "counts"
    rates: bool = False
    filters: bool = False

    def __post_init__(self) -> None:
        if self.gives not in GIVES:
            raise ValueError(f"an allocation gives {', '.join(GIVES)}, not '{self.gives}'")


_COUNTS, _RANKING = "pruning.deciding.allocation.counts", "pruning.deciding.allocation.ranking"
ALLOCATIONS = Registry(
    "allocation",
    Allocation,
    {
        "global": Allocation(
            f"{_RANKING}:as_they_are", summary="one ranking over all layers", gives="ranking", filters=True
        ),
        "uniform": Allocation(f"{_COUNTS}:uniform", summary="every layer keeps the same share", filters=True),
        "uniform+": Allocation(
            f"{_COUNTS}:uniform_plus",
            summary="uniform, but a first convolution stays dense and the last layer keeps 20 % (Gale et al. 2019)",
        ),
        "erk": Allocation(
            f"{_COUNTS}:erk",
            summary="Erdos-Renyi-Kernel: in proportion to the sum of a weight's dimensions (Evci et al. 2020)",
        ),
        "lamp": Allocation(
            f"{_RANKING}:lamp",
            summary="one ranking of scores normalized within each layer (Lee et al. 2021)",
            gives="ranking",
        ),
        "rates": Allocation(f"{_COUNTS}:given_rates", summary="a density given for each layer", rates=True),
    },
)
