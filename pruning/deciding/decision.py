"""A pruning decision: what is asked for, and the masks that follow: score, allocate, in as many rounds as asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning import seeds, trees
from pruning.deciding import arguments, scoring
from pruning.deciding.ablations import ABLATIONS, Ablation
from pruning.deciding.allocation.sharing import Share, allocate, shared
from pruning.deciding.beforehand import refuse_regrowth, refuse_reparametrized, tell_unpruned
from pruning.deciding.criteria import Criterion
from pruning.deciding.criteria.base import Objective
from pruning.deciding.filters import prune_filters
from pruning.deciding.scoring import Batch, score, warn
from pruning.errors import PlanError
from pruning.events import Progress, Tell, Warned, silent
from pruning.masks import Masks, count_nonzeros, empty_layers
from pruning.plan import Prune, ScoringMode

__all__ = ["Batch", "Decision", "Filters", "prune", "score", "warn"]


@dataclass(frozen=True)
class Filters:
    """How whole filters and neurons go, in place of weights: scored by a norm, or by Li et al.'s `rates` and their level."""

    norm: str = "l1"
    rates: str | None = None
    level: int = 1


@dataclass(frozen=True)
class Decision:
    """What a pruning is told, once: everything that says which weights stay, but the network, its masks and the sample.

    `sparsity` of all prunable weights that `exclude` leaves in and `include` adds, of filters with `filters`. Weights that the
    network transforms before it multiplies by them are refused without `allow_reparametrized`. `rounds`, `mode` and
    `micro_batch` None mean the criterion's own. `rates` {name or pattern: density} belong to allocations that take them. An
    `ablation` changes scores, masks or weights as a control. `min_per_layer` weights stay in every layer.
    """

    criterion: str = "magnitude"
    sparsity: float = 0.0
    allocation: str = "global"
    rates: Mapping[str, float] | None = None
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    allow_reparametrized: bool = False
    rounds: int | None = None
    mode: ScoringMode | None = None
    micro_batch: int | None = None
    ablation: str | None = None
    min_per_layer: int = 0
    filters: Filters | None = None

    @classmethod
    def of(cls, phase: Prune) -> Decision:
        """Returns the decision that a prune phase asks for."""
        filters = None
        if phase.structure == "filters":
            filters = Filters(phase.filter_norm or "l1", phase.filter_rates, phase.filter_level or 1)
        return cls(
            criterion=phase.criterion,
            sparsity=phase.sparsity,
            allocation=phase.allocation,
            rates=phase.layer_rates or None,
            exclude=phase.exclude,
            include=phase.include,
            allow_reparametrized=phase.allow_reparametrized,
            rounds=phase.rounds,
            mode=phase.scoring_mode,
            micro_batch=phase.scoring_batch,
            ablation=phase.ablation,
            min_per_layer=phase.min_per_layer,
            filters=filters,
        )

    @property
    def density(self) -> float:
        """Returns 1 - sparsity."""
        return 1.0 - self.sparsity

    def check(self) -> tuple[Criterion, Ablation | None]:
        """Returns the entries of criterion and ablation; raises PlanError for an option that the criterion does not use."""
        entry = scoring.find(self.criterion, rounds=self.rounds, mode=self.mode, micro_batch=self.micro_batch)
        return entry, None if self.ablation is None else ABLATIONS.find(self.ablation)

    def share(self, weights: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> Share:
        """Returns how many weights will stay, before any is scored; raises PlanError where that cannot be done."""
        shapes = {name: weight.shape for name, weight in weights.items()}
        found = shared(
            shapes,
            self.density,
            self.allocation,
            masks=present,
            min_per_layer=self.min_per_layer,
            rates=self.rates,
        )
        if present is None:
            refuse_regrowth(weights, found.keep)
        return found

    def decide(
        self,
        model: nn.Module,
        *,
        masks: Mapping[str, Tensor] | None = None,
        batch: Batch | None = None,
        task: Objective | None = None,
        generator: torch.Generator | None = None,
        tell: Tell = warn,
    ) -> Masks:
        """Returns the masks that keep round(density * total) of the prunable weights; the model is left as it was.

        `masks` are the present ones: what they have pruned stays pruned and counts in the density. In round n of N the
        density is d_0 (density / d_0)^(n/N), d_0 the present one (Tanaka et al. 2020, algorithm 1), and the scores are
        taken anew under the masks so far. Where a later round finds every score 0, as when the network is cut through,
        the last scores that were not go on to rank.
        """
        generator = seeds.generator(0, "scores") if generator is None else generator
        if self.filters is not None:
            decided = self._without_filters(model, masks, generator)
            if masks is None:
                tell_unpruned(model, decided, self.exclude, tell)
            return decided
        entry, ablation = self.check()
        sample = scoring.make_sample(self.criterion, batch, self.mode, self.micro_batch, generator, task)
        weights = scoring.prunable_weights(model, self.exclude, masks, self.include)
        self.share(weights, masks)
        if not self.allow_reparametrized:
            inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
            few = None if inputs is None else trees.each(lambda t: t[:2], inputs)
            refuse_reparametrized(model, weights, None if few is None else lambda m: sample.task.forward(m, few))
        present = None if masks is None else {name: masks[name].to(weight.device) for name, weight in weights.items()}
        now: Mapping[str, Tensor] | None = present
        start = 1.0 if now is None else sum(int(m.sum()) for m in now.values()) / sum(m.numel() for m in now.values())
        if ablation is not None and ablation.changes == "weights":
            weights = ablation.load()(weights, generator)
        number = entry.rounds if self.rounds is None else self.rounds
        told = 0.0
        for n in range(1, number + 1):
            fresh = scoring.take(entry, model, scoring.masked(weights, now), sample)
            if n == 1 or any(bool(score.any()) for score in fresh.values()):
                scores, last = fresh, n
                scoring.check(self.criterion, scores, now, tell if n == number else silent)
            goal, shares = self._step(n / number, start)
            ranking = ablation.load()(scores) if ablation is not None and ablation.changes == "scores" else scores
            before = now
            now = allocate(ranking, goal, self.allocation, masks=now, min_per_layer=self.min_per_layer, rates=shares)
            if number > 1 and (n == number or time.monotonic() - told > 0.1):
                told = time.monotonic()
                tell(Progress(n, number, "rounds"))
        assert isinstance(now, Masks)
        if last < number:
            text = f"criterion '{self.criterion}' gives every weight the score 0 after round {last} of {number}"
            tell(Warned(f"{text}: the rest is ranked by the scores of round {last}"))
        _tell_ties(self.criterion, scores, before, now, tell)
        if ablation is not None and ablation.changes == "masks":
            now = ablation.load()(now, present, generator)
        if empty := empty_layers(now):
            tell(Warned(f"layer collapse: no weight is kept in {scoring.named(empty)}"))
        decided = Masks(now, masks.extra if isinstance(masks, Masks) else {})
        if masks is None:
            tell_unpruned(model, decided, self.exclude, tell)
        return decided

    def _step(self, share: float, start: float) -> tuple[float | None, Mapping[str, float] | None]:
        """Returns the density and the layer rates after `share` of the rounds, on the way from density `start`."""
        if share == 1:
            return self.density, self.rates
        if self.rates is not None:
            return None, {name: rate**share for name, rate in self.rates.items()}
        return (start * (self.density / start) ** share if start > 0 else 0.0), None

    def _without_filters(
        self, model: nn.Module, present: Mapping[str, Tensor] | None, generator: torch.Generator
    ) -> Masks:
        assert self.filters is not None
        return prune_filters(
            model,
            None if self.filters.rates else self.sparsity,
            pooling="random" if self.criterion == "random" else self.filters.norm,
            allocation=self.allocation,
            rates=self.filters.rates,
            level=self.filters.level,
            masks=present if present is None or isinstance(present, Masks) else Masks(present),
            exclude=self.exclude,
            generator=generator,
        )


def prune(
    model: nn.Module,
    sparsity: float,
    criterion: str = "magnitude",
    allocation: str = "global",
    batch: Batch | None = None,
    exclude: Iterable[str] = (),
    *,
    include: Iterable[str] = (),
    allow_reparametrized: bool = False,
    masks: Mapping[str, Tensor] | None = None,
    rounds: int | None = None,
    mode: ScoringMode | None = None,
    micro_batch: int | None = None,
    ablation: str | None = None,
    rebuild: Callable[[], nn.Module] | None = None,
    min_per_layer: int = 0,
    rates: Mapping[str, float] | None = None,
    task: Objective | None = None,
    generator: torch.Generator | None = None,
    seed: int = 0,
    tell: Tell = warn,
) -> Masks:
    """Returns the masks of a :class:`Decision` made of these settings, applied: pruned weights are exactly +0.

    `batch` is (inputs, labels) or inputs alone, as the criterion needs; `masks` are the present ones. `task` says how the model
    is called and what its loss is, cross-entropy unless given. An ablation that changes the network ("reinit") needs
    `rebuild`, a function that returns the model with a new initialization.
    """
    model, batch = arguments.module(model), arguments.batch(batch)
    control = None if ablation is None else ABLATIONS.find(ablation)
    if (rebuild is not None) != (control is not None and control.changes == "network"):
        raise PlanError("ablation 'reinit' and rebuild go together: give both or neither")
    asked = Decision(
        criterion=arguments.word(criterion, "criterion"),
        sparsity=arguments.share(sparsity, "sparsity"),
        allocation=arguments.word(allocation, "allocation"),
        rates=rates,
        exclude=arguments.patterns(exclude, "exclude"),
        include=arguments.patterns(include, "include"),
        allow_reparametrized=allow_reparametrized,
        rounds=arguments.whole(rounds, "rounds", 1),
        mode=mode,
        micro_batch=arguments.whole(micro_batch, "micro_batch", 1),
        ablation=ablation,
        min_per_layer=arguments.whole(min_per_layer, "min_per_layer", 0) or 0,
    )
    generator = seeds.generator(seed, "scores") if generator is None else generator
    decided = asked.decide(model, masks=masks, batch=batch, task=task, generator=generator, tell=tell)
    put(model, decided, control, rebuild)
    return decided


def put(
    model: nn.Module, masks: Masks, ablation: Ablation | None = None, rebuild: Callable[[], nn.Module] | None = None
) -> bool:
    """Puts the masks on the model; returns whether it keeps its weights, which an ablation of the network draws anew."""
    if ablation is not None and ablation.changes == "network":
        ablation.load()(model, rebuild, masks)
        return False
    masks.apply(model)
    return True


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
