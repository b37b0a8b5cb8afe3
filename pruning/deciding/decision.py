"""A pruning decision: score, allocate, masks, in as many rounds as asked. Engine and Python API call the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from pruning import seeds
from pruning.deciding import ablations, scoring
from pruning.deciding.allocation import allocate
from pruning.deciding.scoring import Batch, score, warn
from pruning.events import Progress, Tell, Warned, silent
from pruning.masks import Masks, count_nonzeros, empty_layers
from pruning.plan import PlanError, ScoringMode, suggest

__all__ = ["Batch", "decide", "prune", "score", "warn"]


def decide(
    model: nn.Module,
    criterion: str,
    density: float,
    *,
    allocation: str = "global",
    masks: Mapping[str, Tensor] | None = None,
    batch: Batch | None = None,
    exclude: Iterable[str] = (),
    rounds: int | None = None,
    mode: ScoringMode | None = None,
    micro_batch: int | None = None,
    ablation: str | None = None,
    min_per_layer: int = 0,
    rates: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
    tell: Tell = warn,
) -> Masks:
    """Returns the masks that keep round(density * total) of the prunable weights; the model is left as it was.

    `masks` are the present ones: what they have pruned stays pruned and counts in the density. In round n of N the
    density is d_0 (density / d_0)^(n/N), d_0 the present one (Tanaka et al. 2020, algorithm 1), and the scores are
    taken anew under the masks so far; `rounds` None takes the criterion's own number. An `ablation` of masks or
    scores is one of `pruning.deciding.ablations` ("reinit" changes the weights, no mask). Where a later round finds every
    score 0, as when the network is cut through, the last scores that were not go on to rank. Further options are
    those of :func:`score` and of `pruning.allocate`.
    """
    entry = scoring.find(criterion, rounds=rounds, mode=mode, micro_batch=micro_batch)
    _check_ablation(ablation)
    generator = seeds.generator(0, "scores") if generator is None else generator
    ask = scoring.question(criterion, batch, mode, micro_batch, generator)
    weights = scoring.prunable_weights(model, exclude, masks)
    present = None if masks is None else {name: masks[name].to(weight.device) for name, weight in weights.items()}
    now: Mapping[str, Tensor] | None = present
    start = 1.0 if now is None else sum(int(m.sum()) for m in now.values()) / sum(m.numel() for m in now.values())
    if ablation == "normal-init":
        weights = ablations.normal_weights(weights, generator)
    number = entry.rounds if rounds is None else rounds
    told = 0.0
    for n in range(1, number + 1):
        fresh = scoring.take(entry, model, scoring.masked(weights, now), ask)
        if n == 1 or any(bool(score.any()) for score in fresh.values()):
            scores, last = fresh, n
            scoring.check(criterion, scores, now, tell if n == number else silent)
        goal, shares = _step(n / number, start, density, rates)
        ranking = ablations.inverted(scores) if ablation == "invert" else scores
        before, now = now, allocate(ranking, goal, allocation, masks=now, min_per_layer=min_per_layer, rates=shares)
        if number > 1 and (n == number or time.monotonic() - told > 0.1):
            told = time.monotonic()
            tell(Progress(n, number, "rounds"))
    assert isinstance(now, Masks)
    if last < number:
        text = f"criterion '{criterion}' gives every weight the score 0 after round {last} of {number}"
        tell(Warned(f"{text}: the rest is ranked by the scores of round {last}"))
    _tell_ties(criterion, scores, before, now, tell)
    if ablation in ablations.MASK_CHANGES:
        now = ablations.MASK_CHANGES[ablation](now, present, generator)
    if empty := empty_layers(now):
        tell(Warned(f"layer collapse: no weight is kept in {scoring.named(empty)}"))
    return Masks(now, masks.extra) if isinstance(masks, Masks) else now


def prune(
    model: nn.Module,
    sparsity: float,
    criterion: str = "magnitude",
    allocation: str = "global",
    batch: Batch | None = None,
    exclude: Iterable[str] = (),
    *,
    masks: Mapping[str, Tensor] | None = None,
    rounds: int | None = None,
    mode: ScoringMode | None = None,
    micro_batch: int | None = None,
    ablation: str | None = None,
    rebuild: Callable[[], nn.Module] | None = None,
    min_per_layer: int = 0,
    rates: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
    seed: int = 0,
    tell: Tell = warn,
) -> Masks:
    """Returns the masks of :func:`decide` at density 1 - sparsity, applied: pruned weights are exactly +0.

    The ablation "reinit" needs `rebuild`, a function that returns the model with a new initialization.
    """
    if not 0 <= sparsity <= 1:
        raise PlanError(f"sparsity must lie in [0, 1], not {sparsity}")
    if (rebuild is not None) != (ablation == "reinit"):
        raise PlanError("ablation 'reinit' and rebuild go together: give both or neither")
    decided = decide(
        model,
        criterion,
        1.0 - sparsity,
        allocation=allocation,
        masks=masks,
        batch=batch,
        exclude=exclude,
        rounds=rounds,
        mode=mode,
        micro_batch=micro_batch,
        ablation=ablation,
        min_per_layer=min_per_layer,
        rates=rates,
        generator=seeds.generator(seed, "scores") if generator is None else generator,
        tell=tell,
    )
    if rebuild is not None:
        ablations.reinitialize(model, rebuild, decided)
    else:
        decided.apply(model)
    return decided


def _step(
    share: float, start: float, density: float, rates: Mapping[str, float] | None
) -> tuple[float | None, Mapping[str, float] | None]:
    """Returns the density and the layer rates after `share` of the rounds, on the way from density `start`."""
    if share == 1:
        return density, rates
    if rates is not None:
        return None, {name: rate**share for name, rate in rates.items()}
    return (start * (density / start) ** share if start > 0 else 0.0), None


def _check_ablation(ablation: str | None) -> None:
    if ablation is not None and ablation not in ablations.ABLATIONS:
        allowed = ablations.ABLATIONS
        raise PlanError(f"ablation '{ablation}' is unknown{suggest(ablation, allowed)}; allowed: {', '.join(allowed)}")


def _tell_ties(
    criterion: str, scores: Mapping[str, Tensor], before: Mapping[str, Tensor] | None, after: Masks, tell: Tell
) -> None:
    """Tells of layers where some weights of score 0 are kept and some are not: which ones is chance."""
    tied = []
    nonzero = count_nonzeros(list(scores.values()))
    for (name, value), others in zip(scores.items(), nonzero, strict=True):
        if others == value.numel():
            continue
        zero = value == 0 if before is None else (value == 0) & before[name].to(value.device)
        kept = int((zero & after[name]).sum())
        if 0 < kept < int(zero.sum()):
            tied.append(name)
    if tied:
        where = scoring.named(tied)
        tell(Warned(f"criterion '{criterion}': of the weights with score 0 the first are kept, others not, in {where}"))
