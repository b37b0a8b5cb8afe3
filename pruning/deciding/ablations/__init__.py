"""Controls: changes of masks, scores or weights that show what a pruning method's success rests on.

After Frankle et al. (2021, section 5 and appendices D, E). What an ablation `changes` says with what its function is called:

    weights   (weights, generator) -> weights     what is scored in place of the network's own
    scores    (scores) -> scores                  what is ranked
    masks     (masks, present, generator) -> masks
    network   (model, rebuild, masks)             the network under its masks, in place
"""

from __future__ import annotations

from dataclasses import dataclass

from pruning.registry import Function, Registry

CHANGES = ("weights", "scores", "masks", "network")


@dataclass(frozen=True)
class Ablation(Function):
    """A control: what it `changes`, and whether it applies to the pruning of filters."""

    changes: str = "masks"
    filters: bool = False

    def __post_init__(self) -> None:
        if self.changes not in CHANGES:
            raise ValueError(f"an ablation changes {', '.join(CHANGES)}, not '{self.changes}'")


_HERE = "pruning.deciding.ablations.changes"
ABLATIONS = Registry(
    "ablation",
    Ablation,
    {
        "shuffle": Ablation(f"{_HERE}:shuffle", summary="masks permuted within each layer"),
        "shuffle-across": Ablation(f"{_HERE}:shuffle_across", summary="masks permuted across all layers"),
        "random-counts": Ablation(f"{_HERE}:random_counts", summary="random masks with the same count in each layer"),
        "reinit": Ablation(
            f"{_HERE}:reinitialize",
            summary="masks kept, weights drawn anew from their initialization",
            changes="network",
            filters=True,
        ),
        "invert": Ablation(
            f"{_HERE}:inverted", summary="the lowest scores kept in place of the highest", changes="scores"
        ),
        "normal-init": Ablation(
            f"{_HERE}:normal_weights",
            summary="scores of a network whose prunable weights are drawn from N(0, 1)",
            changes="weights",
        ),
    },
)
