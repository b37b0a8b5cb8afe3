"""Scores and one density for all become masks with an exact total, shared out by an allocation.

Present masks make the pruning hard: a pruned weight never returns, and a layer's share is of what it has left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning import ops
from pruning.deciding.allocation import ALLOCATIONS
from pruning.deciding.allocation.counts import given_counts, layer_counts
from pruning.masks import Masks
from pruning.plan import PlanError
from pruning.value_range import finite


def allocate(
    scores: Mapping[str, Tensor],
    density: float | None,
    allocation: str = "global",
    *,
    masks: Mapping[str, Tensor] | None = None,
    min_per_layer: int = 0,
    rates: Mapping[str, float] | None = None,
) -> Masks:
    """Returns the masks that keep the highest scores, round(density * total) of them, shared out by `allocation`.

    `density` counts all scored weights, also those that the present `masks` have pruned already. `min_per_layer`
    weights stay in every layer, or all that it has left. `rates` {name or pattern: density} belongs to
    allocations that take them, as "rates"; with it `density` may be None, for what the rates amount to.
    """
    if broken := [name for name, score in scores.items() if not finite(score)]:
        raise PlanError(f"the scores of '{broken[0]}' are not finite")
    shapes = {name: score.shape for name, score in scores.items()}
    share = shared(shapes, density, allocation, masks=masks, min_per_layer=min_per_layer, rates=rates)
    tensors = list(scores.values())
    alive = None if masks is None else [masks[name].to(score.device) for name, score in scores.items()]
    if share.counts is not None:
        chosen = ops.topk_masks(tensors, share.counts, alive=alive)
    else:
        ranking = ALLOCATIONS.find(allocation).load()(tensors, alive)
        chosen = _ranked(ranking, share.keep, alive, share.least)
    return Masks(dict(zip(scores, chosen, strict=True)))


@dataclass(frozen=True)
class Share:
    """How many weights stay in all and at least in each layer; `counts` in each, where no scores decide on that."""

    keep: int
    least: list[int]
    counts: list[int] | None


def shared(
    shapes: Mapping[str, torch.Size],
    density: float | None,
    allocation: str = "global",
    *,
    masks: Mapping[str, Tensor] | None = None,
    min_per_layer: int = 0,
    rates: Mapping[str, float] | None = None,
) -> Share:
    """Returns what :func:`allocate` will keep of weights of these shapes; raises PlanError where it cannot be done."""
    _check(shapes, density, allocation, masks, rates)
    sizes = [shape.numel() for shape in shapes.values()]
    left = sizes if masks is None else [int(masks[name].sum()) for name in shapes]
    keep = sum(given_counts(shapes, rates or {}, left)) if density is None else round(density * sum(sizes))
    if keep > sum(left):
        raise PlanError(
            f"density {density} asks for {keep} weights, but only {sum(left)} are left: pruned weights do not return"
        )
    least = [min(min_per_layer, count) for count in left]
    if sum(least) > keep:
        raise PlanError(f"min_per_layer {min_per_layer} needs {sum(least)} weights, but {keep} are to be kept")
    entry = ALLOCATIONS.find(allocation)
    if entry.gives == "ranking":
        return Share(keep, least, None)
    return Share(keep, least, layer_counts(shapes, keep, entry.load(), left=left, least=least, rates=rates))


def _ranked(ranking: list[Tensor], keep: int, alive: list[Tensor] | None, least: Sequence[int]) -> list[Tensor]:
    if not any(least):
        return ops.topk_masks(ranking, keep, alive=alive)
    sure = ops.topk_masks(ranking, list(least), alive=alive)
    rest = [~mask if alive is None else alive[i] & ~mask for i, mask in enumerate(sure)]
    more = ops.topk_masks(ranking, keep - sum(least), alive=rest)
    return [a | b for a, b in zip(sure, more, strict=True)]


def _check(
    shapes: Mapping[str, torch.Size],
    density: float | None,
    allocation: str,
    masks: Mapping[str, Tensor] | None,
    rates: Mapping[str, float] | None,
) -> None:
    takes_rates = ALLOCATIONS.find(allocation).rates
    if density is None and not takes_rates:
        raise PlanError(f"allocation '{allocation}' needs a density")
    if density is not None and not 0 <= density <= 1:
        raise PlanError(f"density must lie in [0, 1], not {density}")
    if not shapes:
        raise PlanError("there is nothing to prune: no weight has a score")
    if (rates is not None) != takes_rates:
        raise PlanError("allocation 'rates' and layer rates go together: give both or neither")
    for name, shape in shapes.items():
        if masks is not None and (name not in masks or masks[name].shape != shape):
            raise PlanError(f"the present masks do not fit the scores of '{name}'")
