"""A pruning decision: score, allocate, masks, in as many rounds as asked. Engine and Python API call the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pruning import seeds
from pruning.allocation import allocate, collapsed
from pruning.criteria import CRITERIA, Ask, Criterion
from pruning.events import Progress, Tell, Warned, silent
from pruning.masks import Masks, prunable
from pruning.plan import PlanError, ScoringMode, suggest

Batch = Tensor | tuple[Tensor, Tensor | None]  # inputs [n, ...] alone, or with labels int64 [n]


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
    mode: ScoringMode = "eval",
    micro_batch: int | None = None,
    min_per_layer: int = 0,
    rates: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
    tell: Tell = silent,
) -> Masks:
    """Returns the masks that keep round(density * total) of the prunable weights; the model is left as it was.

    `masks` are the present ones: what they have pruned stays pruned and counts in the density. In round n of N the
    density is d_0 (density / d_0)^(n/N), d_0 the present one, and the scores are taken anew under the masks so far;
    `rounds` None takes the criterion's own number. Options are those of :func:`score` and of `allocate`.
    """
    entry = _criterion(criterion)
    weights = {name: parameter.detach() for name, parameter in prunable(model, exclude).items()}
    if not weights:
        raise PlanError("the model has no prunable weight: no convolution or linear layer, or all are excluded")
    now = None if masks is None else {name: masks[name].to(weight.device) for name, weight in weights.items()}
    start = 1.0 if now is None else sum(int(m.sum()) for m in now.values()) / sum(m.numel() for m in now.values())
    number = entry.rounds if rounds is None else rounds
    if number < 1:
        raise PlanError(f"rounds must be at least 1, not {number}")
    ask = _ask(criterion, batch, mode, micro_batch, generator)
    for n in range(1, number + 1):
        masked = weights if now is None else {name: w.where(now[name], 0) for name, w in weights.items()}
        scores = entry.score(model, masked, ask)
        goal, shares = _step(n / number, start, density, rates)
        now = allocate(scores, goal, allocation, masks=now, min_per_layer=min_per_layer, rates=shares)
        if number > 1:
            tell(Progress(n, number, "rounds"))
    assert isinstance(now, Masks)
    if empty := collapsed(now):
        tell(Warned(f"layer collapse: {', '.join(empty)} {'keeps' if len(empty) == 1 else 'keep'} no weight"))
    return now


def score(
    model: nn.Module,
    criterion: str = "magnitude",
    batch: Batch | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    exclude: Iterable[str] = (),
    mode: ScoringMode = "eval",
    micro_batch: int | None = None,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Returns {name: scores} of the prunable weights, larger = keep; the model is left as it was.

    `batch` is (inputs, labels) or inputs alone, as the criterion needs; `mode` is the module mode while scoring;
    `micro_batch` examples go through the model at once, without effect on the scores. Without a `generator` one is
    derived from `seed`. `masks` take weights out before scoring.
    """
    entry = _criterion(criterion)
    weights = {name: parameter.detach() for name, parameter in prunable(model, exclude).items()}
    if masks is not None:
        weights = {name: w.where(masks[name].to(w.device), 0) for name, w in weights.items()}
    generator = seeds.generator(seed, "prune") if generator is None else generator
    return entry.score(model, weights, _ask(criterion, batch, mode, micro_batch, generator))


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
    mode: ScoringMode = "eval",
    micro_batch: int | None = None,
    min_per_layer: int = 0,
    rates: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
    seed: int = 0,
    tell: Tell = silent,
) -> Masks:
    """Returns the masks of :func:`decide` at density 1 - sparsity, applied: pruned weights are exactly +0."""
    if not 0 <= sparsity <= 1:
        raise PlanError(f"sparsity must lie in [0, 1], not {sparsity}")
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
        min_per_layer=min_per_layer,
        rates=rates,
        generator=seeds.generator(seed, "prune") if generator is None else generator,
        tell=tell,
    )
    decided.apply(model)
    return decided


def _criterion(name: str) -> Criterion:
    if name not in CRITERIA:
        raise PlanError(f"criterion '{name}' is unknown{suggest(name, CRITERIA)}; allowed: {', '.join(CRITERIA)}")
    return CRITERIA[name]


def _step(
    share: float, start: float, density: float, rates: Mapping[str, float] | None
) -> tuple[float | None, Mapping[str, float] | None]:
    """Returns the density and the layer rates after `share` of the rounds, on the way from density `start`."""
    if share == 1:
        return density, rates
    if rates is not None:
        return None, {name: rate**share for name, rate in rates.items()}
    return (start * (density / start) ** share if start > 0 else 0.0), None


def _ask(
    criterion: str, batch: Batch | None, mode: ScoringMode, micro_batch: int | None, generator: torch.Generator | None
) -> Ask:
    inputs, labels = batch if isinstance(batch, tuple | list) else (batch, None)
    needs = CRITERIA[criterion].needs
    if (needs != "nothing" and inputs is None) or (needs == "labels" and labels is None):
        what = "(inputs, labels)" if needs == "labels" else "inputs"
        raise PlanError(f"criterion '{criterion}' scores a sample: give it as batch={what}")
    generator = seeds.generator(0, "prune") if generator is None else generator
    return Ask(generator, inputs, labels, mode, micro_batch)
