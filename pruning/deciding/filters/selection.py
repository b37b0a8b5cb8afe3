"""Which filters go: scores per filter, exact counts, and masks over everything that is a filter's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from pruning import ops
from pruning.deciding.allocation import ALLOCATIONS
from pruning.deciding.filters.li_rates import li_counts
from pruning.deciding.filters.units import Units, eligible, find_units
from pruning.masks import Masks, keep_count, prunable
from pruning.plan import PlanError, suggest

# name -> scores of one layer's weights as rows [units, weights of a unit] -> scores [units]
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda rows: rows.abs().sum(1),  # Li et al. 2017
    "l2": lambda rows: rows.square().sum(1).sqrt(),  # Zimmer et al. 2023, A.1
    "mean": lambda rows: rows.abs().mean(1),  # as l1 within a layer, but comparable between layers of unlike fan-in
}


def pool(scores: Mapping[str, Tensor], how: str = "l1") -> dict[str, Tensor]:
    """Returns {name: scores per filter, float64 [units]}: norms of the weights' scores; magnitudes give weights' norms."""
    if how not in POOLS:
        raise PlanError(f"pooling '{how}' is unknown{suggest(how, POOLS)}; allowed: {', '.join(POOLS)}")
    return {name: POOLS[how](score.detach().double().flatten(1)) for name, score in scores.items()}


def random_scores(units: Mapping[str, Units], generator: torch.Generator) -> dict[str, Tensor]:
    """Returns {name: uniform random scores per filter [units]} (float64, on the CPU)."""
    return {name: torch.rand(u.number, dtype=torch.float64, generator=generator) for name, u in units.items()}


def allocate_filters(
    scores: Mapping[str, Tensor],
    sparsity: float,
    allocation: str = "uniform",
    alive: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Returns {name: kept filters, bool [units]}, round((1 - sparsity) * all filters) in all; ties to the earlier one.

    `scores` are per filter; `alive` filters alone can be kept. Rounded layer counts add up by the largest remainders.
    Raises PlanError where a layer would be left without a filter.
    """
    fitting = [name for name, entry in ALLOCATIONS.items() if entry.filters]
    if allocation not in fitting:
        hint = suggest(allocation, fitting)
        raise PlanError(f"allocation '{allocation}' does not apply to filters{hint}; allowed: {', '.join(fitting)}")
    if not scores:
        raise PlanError("the model has no filters that can be removed without changing the width of a residual way")
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise PlanError(f"the scores of the filters of '{name}' are not finite")
    sizes = [len(score) for score in scores.values()]
    keep = keep_count(sum(sizes), sparsity)
    here = [torch.ones_like(s, dtype=torch.bool) if alive is None else alive[n].to(s.device) for n, s in scores.items()]
    left = [int(a.sum()) for a in here]
    if keep > sum(left):
        raise PlanError(f"sparsity {sparsity:g} keeps {keep} filters, but only {sum(left)} are left")
    counts: int | list[int] = keep if allocation == "global" else _uniform(keep, sizes, left)
    kept = dict(zip(scores, ops.topk_masks(list(scores.values()), counts, alive=here), strict=True))
    _refuse_empty(kept)
    return kept


def _uniform(keep: int, sizes: list[int], caps: list[int]) -> list[int]:
    """Returns counts in proportion to the sizes that sum to `keep`, by largest remainders, none above its cap."""
    counts = [min(keep * size // sum(sizes), cap) for size, cap in zip(sizes, caps, strict=True)]
    while (missing := keep - sum(counts)) > 0:
        order = sorted(
            (i for i, cap in enumerate(caps) if counts[i] < cap),
            key=lambda i: (counts[i] - keep * sizes[i] / sum(sizes), i),
        )
        for i in order[:missing]:
            counts[i] += 1
    return counts


def _refuse_empty(kept: Mapping[str, Tensor]) -> None:
    for name, mask in kept.items():
        if not bool(mask.any()):
            raise PlanError(f"no filter of '{name}' would be left; prune less, or exclude the layer")


def expand(
    model: nn.Module,
    kept: Mapping[str, Tensor],
    masks: Masks | None = None,
    exclude: Iterable[str] = (),
    units: Mapping[str, Units] | None = None,
) -> Masks:
    """Returns masks of all prunable weights that leave out the other filters, within the present `masks`.

    The extra masks cover their biases and the affine pairs of their normalizations.
    """
    units = find_units(model, exclude) if units is None else units
    parameters = dict(model.named_parameters(remove_duplicate=False))
    whole = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(model, exclude).items()}
    now = {**whole, **({} if masks is None else {name: mask.clone() for name, mask in masks.items()})}
    extra = {} if masks is None else {name: mask.clone() for name, mask in masks.extra.items()}
    for name, keep in kept.items():
        if name not in units or units[name].number != len(keep):
            raise PlanError(f"'{name}' is no layer of {len(keep)} filters{suggest(name, units)}")
        row = keep.to(now[name].device)
        now[name] = now[name] & row.view(-1, *[1] * (now[name].dim() - 1))
        owner, norm = units[name].layer, units[name].norm
        own = [f"{owner}.bias" if owner else "bias", *([] if norm is None else [f"{norm}.weight", f"{norm}.bias"])]
        for other in own:
            if other in parameters and not bool(row.all()):
                extra[other] = extra[other] & row if other in extra else row.clone()
    return Masks(now, extra)


def prune_filters(
    model: nn.Module,
    sparsity: float | None = None,
    *,
    pooling: str = "l1",
    scores: Mapping[str, Tensor] | None = None,
    allocation: str = "uniform",
    rates: str | None = None,
    level: int = 1,
    layers: str = "internal",
    masks: Masks | None = None,
    exclude: Iterable[str] = (),
    generator: torch.Generator | None = None,
) -> Masks:
    """Returns masks under which round((1 - sparsity) * filters) of the eligible layers' filters are kept; applies nothing.

    `scores` are per weight, the weights themselves by default, and pooled per filter; `pooling` "random" draws scores
    from the generator instead. `rates` names Li et al.'s rates, with `level`, in place of a sparsity and an allocation.
    `layers` "internal" leaves residual widths alone, "all" takes every layer but the last. `masks` are present ones.
    """
    exclude = [exclude] if isinstance(exclude, str) else list(exclude)
    units = find_units(model, exclude)
    targets = eligible(units, layers)
    if pooling == "random":
        if generator is None:
            raise PlanError("random filters need a generator")
        pooled = random_scores(targets, generator)
    else:
        weights = prunable(model, exclude) if scores is None else scores
        pooled = pool({name: weights[name] for name in targets}, pooling)
    alive = None if masks is None else {name: masks[name].flatten(1).any(1) for name in targets}
    if (rates is None) == (sparsity is None):
        raise PlanError("filters go by a sparsity or by named rates: give one of them")
    if rates is None:
        assert sparsity is not None
        return expand(model, allocate_filters(pooled, sparsity, allocation, alive), masks, exclude, units)
    numbered = {
        name: u.number for name, u in units.items() if model.get_parameter(name).dim() > 2 and _large(model, name)
    }
    kept = {}
    for name, gone in li_counts(rates, numbered, level).items():
        if name not in pooled:
            raise PlanError(f"filter rates '{rates}' prune '{name}', whose filters are not internal in this model")
        here = (
            torch.ones(len(pooled[name]), dtype=torch.bool, device=pooled[name].device)
            if alive is None
            else alive[name]
        )
        keep = min(units[name].number - gone, int(here.sum()))
        kept[name] = ops.topk_masks([pooled[name]], keep, alive=[here.to(pooled[name].device)])[0]
    _refuse_empty(kept)
    return expand(model, kept, masks, exclude, units)


def _large(model: nn.Module, name: str) -> bool:
    return any(size > 1 for size in model.get_parameter(name).shape[2:])


def densities(model: nn.Module, masks: Masks) -> tuple[float, float]:
    """Returns (density of the masks, density without what reads a filter that is gone): Renda et al.'s code, their paper.

    The second counts as removed, beside the masks, the input channels that layers have for filters with no weight left.
    The numbers that Renda et al. print are lower by up to .002 on the CIFAR ResNets: they also leave out the inputs of the
    projection behind a stage whose last block lost filters, which reads the block's sum and none of these filters.
    """
    now = dict(masks)
    for name, units in find_units(model).items():
        if not units.internal or name not in masks:
            continue
        dead = ~masks[name].flatten(1).any(1)
        for reader in units.readers:
            weight = f"{reader}.weight"
            if weight in now:
                columns = dead.repeat_interleave(now[weight].shape[1] // units.number)
                now[weight] = now[weight] & ~columns.view(1, -1, *[1] * (now[weight].dim() - 2))
    return masks.density, Masks(now).density
