"""Counts of weights per layer for the allocations that need no scores: uniform, uniform+, ERK and given rates.

Counts that would be fractions are rounded by largest remainder, ties to the earlier layer, so that totals are exact.
`left` (r_l) is what each layer has left.

Deviations from the reference implementation of Lee et al. (2021), whose layer rules these are: it rounds layer by
layer, so its totals are off by some weights, and its ERK compares rounded counts with a layer's size.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from pruning.plan import PlanError, suggest


@dataclass(frozen=True)
class Layers:
    """The layers among which `keep` weights are shared out: their shapes, what each has left, densities given for some."""

    shapes: Mapping[str, torch.Size]
    keep: int
    left: Sequence[int]
    rates: Mapping[str, float]


Rule = tuple[Sequence[int | Fraction], Mapping[int, int]]  # what counts are in proportion to; counts that are fixed


def layer_counts(
    shapes: Mapping[str, torch.Size],
    keep: int,
    rule: Callable[[Layers], Rule],
    *,
    left: Sequence[int] | None = None,
    least: Sequence[int] | None = None,
    rates: Mapping[str, float] | None = None,
) -> list[int]:
    """Returns how many weights each layer keeps, `keep` in all, by the rule of an allocation that needs no scores.

    `left` holds what each layer has left (all of it by default), `least` what it must keep (nothing by default).
    """
    left = [shape.numel() for shape in shapes.values()] if left is None else left
    parts, pinned = rule(Layers(shapes, keep, left, rates or {}))
    return _apportion(keep, parts, left, least or [0] * len(left), pinned)


def uniform(layers: Layers) -> Rule:
    """Returns counts in proportion to what each layer has left."""
    return layers.left, {}


def uniform_plus(layers: Layers) -> Rule:
    """Returns those of :func:`uniform` around a dense first convolution and at least 20 % of the last layer."""
    return layers.left, _ends(list(layers.shapes.values()), layers.keep, layers.left)


def erk(layers: Layers) -> Rule:
    """Returns counts in proportion to the sum of a weight's dimensions (Evci et al. 2020, section 3)."""
    return [sum(shape) for shape in layers.shapes.values()], {}


def given_rates(layers: Layers) -> Rule:
    """Returns the given densities; raises PlanError where they do not amount to what is to be kept."""
    parts = _given(layers.shapes, layers.rates)
    return parts, _fitted(parts, layers.shapes, layers.keep, layers.left)


def given_counts(shapes: Mapping[str, torch.Size], rates: Mapping[str, float], left: Sequence[int]) -> list[int]:
    """Returns what given layer rates keep, each layer rounded by itself, where no total is asked for."""
    return [min(round(part), count) for part, count in zip(_given(shapes, rates), left, strict=True)]


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
        fixed_sum = f"{sum(counts.values())} are fixed in {len(counts)} of {len(parts)} layers"
        raise PlanError(f"{keep} weights cannot be shared out: {fixed_sum}")
    shares = {i: int(quotas[i]) if weight else 0 for i in free}
    order = sorted(free, key=lambda i: (shares[i] - quotas[i] if weight else 0, i))
    for i in order[: whole - sum(shares.values())]:
        shares[i] += 1
    return [shares.get(i, counts.get(i, 0)) for i in range(len(parts))]
