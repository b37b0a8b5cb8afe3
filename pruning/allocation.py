"""How many weights each layer keeps: scores and one density for all become masks with an exact total.

Layers are in network order, which is the order of the scores. Every allocation keeps exactly round(density * total) of
all scored weights; layer counts that would be fractions are rounded by largest remainder (ties to the earlier layer).
Present masks make the pruning hard: a pruned weight never returns, and a layer's share is of what it has left (r_l).

Deviations from the reference implementation of Lee et al. (2021), whose layer rules these are: totals are exact
instead of rounded layer by layer; ERK's capping compares unrounded counts; LAMP sums in float64 from the largest
weight down and never empties a layer, not even one of zeros.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from pruning import ops
from pruning.masks import Masks
from pruning.plan import PlanError, suggest

ALLOCATIONS: dict[str, str] = {
    "global": "one ranking over all layers",
    "uniform": "every layer keeps the same share",
    "uniform+": "uniform, but a first convolution stays dense and the last layer keeps 20 % (Gale et al. 2019)",
    "erk": "Erdos-Renyi-Kernel: in proportion to the sum of a weight's dimensions (Evci et al. 2020)",
    "lamp": "one ranking of scores normalized within each layer (Lee et al. 2021)",
    "rates": "a density given for each layer",
}


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
    weights stay in every layer, or all that it has left. `rates` {name or pattern: density} belongs to the allocation
    "rates"; with it `density` may be None, for what the rates amount to.
    """
    _check(scores, density, allocation, masks, rates)
    names = list(scores)
    tensors = [scores[name] for name in names]
    alive = None if masks is None else [masks[name].to(scores[name].device) for name in names]
    left = [score.numel() for score in tensors] if alive is None else [int(mask.sum()) for mask in alive]
    shapes = {name: scores[name].shape for name in names}
    if density is None:
        keep = sum(min(round(part), count) for part, count in zip(_given(shapes, rates or {}), left, strict=True))
    else:
        keep = round(density * sum(score.numel() for score in tensors))
    if keep > sum(left):
        raise PlanError(
            f"density {density} asks for {keep} weights, but only {sum(left)} are left: pruned weights do not return"
        )
    least = [min(min_per_layer, count) for count in left]
    if sum(least) > keep:
        raise PlanError(f"min_per_layer {min_per_layer} needs {sum(least)} weights, but {keep} are to be kept")

    if allocation in ("global", "lamp"):
        ranking = tensors if allocation == "global" else lamp(tensors, alive)
        return Masks(dict(zip(names, _ranked(ranking, keep, alive, least), strict=True)))
    counts = layer_counts(shapes, keep, allocation, left=left, least=least, rates=rates)
    return Masks(dict(zip(names, ops.topk_masks(tensors, counts, alive=alive), strict=True)))


def layer_counts(
    shapes: Mapping[str, torch.Size],
    keep: int,
    allocation: str,
    *,
    left: Sequence[int] | None = None,
    least: Sequence[int] | None = None,
    rates: Mapping[str, float] | None = None,
) -> list[int]:
    """Returns how many weights each layer keeps, `keep` in all, for the allocations that need no scores.

    `left` holds what each layer has left (all of it by default), `least` what it must keep (nothing by default).
    """
    left = [shape.numel() for shape in shapes.values()] if left is None else left
    parts: Sequence[int | Fraction] = left
    pinned: dict[int, int] = {}
    if allocation == "uniform+":
        pinned = _ends(list(shapes.values()), keep, left)
    elif allocation == "erk":
        parts = [sum(shape) for shape in shapes.values()]
    elif allocation == "rates":
        parts = _given(shapes, rates or {})
        pinned = _fitted(parts, shapes, keep, left)
    return _apportion(keep, parts, left, least or [0] * len(left), pinned)


def collapsed(masks: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the layers that keep no weight at all."""
    return [name for name, mask in masks.items() if not bool(mask.any())]


# --- rankings -----------------------------------------------------------------------------------------------


def lamp(scores: Sequence[Tensor], alive: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Returns LAMP scores (float64): z_i^2 over the sum of squares of all z_j at least as large, itself included.

    Lee et al. (2021), equation 1, with z the magnitudes; for another criterion z are its scores, shifted to start at
    0 in every layer where any score is negative. The highest score of each layer gets 1, every other at most 1/2.
    """
    signed = any(bool((score < 0).any()) for score in scores)
    out = []
    for i, score in enumerate(scores):
        z = score.detach().double().flatten()
        if alive is not None:
            pruned = ~alive[i].flatten()
            z = z.masked_fill(pruned, float(z[~pruned].min()) if signed and not bool(pruned.all()) else 0.0)
        if signed:
            z = z - z.min() if z.numel() else z
        if alive is not None:
            z = z.masked_fill(pruned, 0.0)
        top = z.max() if z.numel() else z.new_ones(())
        squares = (z / top if bool(top > 0) else z).square()
        ordered, index = squares.sort(descending=True, stable=True)
        value = ordered / ordered.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
        value[:1] = 1.0
        out.append(torch.empty_like(value).scatter_(0, index, value).reshape(score.shape))
    return out


def _ranked(ranking: list[Tensor], keep: int, alive: list[Tensor] | None, least: Sequence[int]) -> list[Tensor]:
    if not any(least):
        return ops.topk_masks(ranking, keep, alive=alive)
    sure = ops.topk_masks(ranking, list(least), alive=alive)
    rest = [~mask if alive is None else alive[i] & ~mask for i, mask in enumerate(sure)]
    more = ops.topk_masks(ranking, keep - sum(least), alive=rest)
    return [a | b for a, b in zip(sure, more, strict=True)]


# --- layer counts -------------------------------------------------------------------------------------------


def _ends(shapes: list[torch.Size], keep: int, left: Sequence[int]) -> dict[int, int]:
    """Returns the counts that uniform+ fixes: a first convolution's, and the last layer's where its share is low."""
    last = len(shapes) - 1
    pinned = {0: left[0]} if len(shapes[0]) > 2 and last > 0 else {}
    rest = sum(left) - sum(pinned.values())
    share = Fraction(left[last] * (keep - sum(pinned.values())), rest) if rest else Fraction(0)
    floor = min(round(Fraction(shapes[last].numel(), 5)), left[last])
    if last > 0 and round(share) < floor:
        pinned[last] = floor
    if (needs := sum(pinned.values())) > keep:
        what = ["its first convolution dense"] * (0 in pinned) + ["20 % of its last layer"] * (last in pinned)
        raise PlanError(f"allocation 'uniform+' keeps {' and '.join(what)}: {needs} weights, not {keep} as asked")
    return pinned


def _given(shapes: Mapping[str, torch.Size], rates: Mapping[str, float]) -> list[Fraction]:
    """Returns density * size of each layer by its exact name or else the first pattern that fits; others stay dense."""
    for pattern, rate in rates.items():
        if not 0 <= rate <= 1:
            raise PlanError(f"the density of layer '{pattern}' must lie in [0, 1], not {rate}")
        if pattern not in shapes and not fnmatch.filter(shapes, pattern):
            raise PlanError(f"layer rate '{pattern}' fits no prunable weight{suggest(pattern, shapes)}")
    parts = []
    for name, shape in shapes.items():
        fits = [rate for pattern, rate in rates.items() if fnmatch.fnmatchcase(name, pattern)]
        parts.append(Fraction(rates.get(name, fits[0] if fits else 1.0)) * shape.numel())
    return parts


def _fitted(parts: list[Fraction], shapes: Mapping[str, torch.Size], keep: int, left: Sequence[int]) -> dict[int, int]:
    """Returns the counts of layers that stay dense or empty; raises PlanError where the rates do not give `keep`."""
    sizes = [shape.numel() for shape in shapes.values()]
    given = sum((min(part, Fraction(count)) for part, count in zip(parts, left, strict=True)), Fraction(0))
    if abs(given - keep) > Fraction(len(sizes), 2) + Fraction(sum(sizes), 2000):
        raise PlanError(
            f"the layer rates keep {round(given)} of {sum(sizes)} weights, not {keep}: "
            f"ask for sparsity {1 - float(given) / sum(sizes):.6g}"
        )
    return {i: min(int(part), left[i]) for i, part in enumerate(parts) if part in (0, sizes[i])}


def _apportion(
    keep: int,
    parts: Sequence[int | Fraction],
    caps: Sequence[int],
    least: Sequence[int],
    pinned: Mapping[int, int],
) -> list[int]:
    """Returns counts in proportion to `parts` that sum to `keep`, within [least, caps]; those in `pinned` are fixed.

    Of the layers above their cap only the most over-full is set to it before the others are shared out anew.
    """
    fixed = {i: max(count, least[i]) for i, count in pinned.items()}
    while True:
        counts = _capped(keep, parts, caps, fixed)
        short = [i for i, count in enumerate(counts) if count < least[i]]
        if not short:
            return counts
        fixed.update({i: least[i] for i in short})


def _capped(keep: int, parts: Sequence[int | Fraction], caps: Sequence[int], fixed: Mapping[int, int]) -> list[int]:
    counts = dict(fixed)
    while True:
        free = [i for i in range(len(parts)) if i not in counts]
        whole = keep - sum(counts.values())
        weight = sum(Fraction(parts[i]) for i in free)
        if not free or weight == 0:
            break
        quotas = {i: whole * Fraction(parts[i]) / weight for i in free}
        over = {i: quotas[i] / caps[i] if caps[i] else quotas[i] + 2 for i in free if quotas[i] > caps[i]}
        if not over:
            break
        worst = max(over, key=lambda i: over[i])
        counts[worst] = caps[worst]
    if whole and (not free or weight == 0 or whole < 0):
        raise PlanError(f"cannot share out {keep} weights: {sum(counts.values())} are fixed in {len(counts)} layers")
    shares = {i: int(quotas[i]) if weight else 0 for i in free}
    order = sorted(free, key=lambda i: (shares[i] - quotas[i] if weight else 0, i))
    for i in order[: whole - sum(shares.values())]:
        shares[i] += 1
    return [shares.get(i, counts.get(i, 0)) for i in range(len(parts))]


def _check(
    scores: Mapping[str, Tensor],
    density: float | None,
    allocation: str,
    masks: Mapping[str, Tensor] | None,
    rates: Mapping[str, float] | None,
) -> None:
    if allocation not in ALLOCATIONS:
        hint = suggest(allocation, ALLOCATIONS)
        raise PlanError(f"allocation '{allocation}' is unknown{hint}; allowed: {', '.join(ALLOCATIONS)}")
    if density is None and allocation != "rates":
        raise PlanError(f"allocation '{allocation}' needs a density")
    if density is not None and not 0 <= density <= 1:
        raise PlanError(f"density must lie in [0, 1], not {density}")
    if not scores:
        raise PlanError("there is nothing to prune: no weight has a score")
    if (rates is not None) != (allocation == "rates"):
        raise PlanError("allocation 'rates' and layer rates go together: give both or neither")
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise PlanError(f"the scores of '{name}' are not finite")
        if masks is not None and (name not in masks or masks[name].shape != score.shape):
            raise PlanError(f"the present masks do not fit the scores of '{name}'")
