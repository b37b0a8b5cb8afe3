"""Scores of a model's prunable weights by a criterion's name, with everything about them that can be wrong checked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning import seeds, trees
from pruning.deciding import arguments
from pruning.deciding.criteria import CRITERIA, Criterion
from pruning.deciding.criteria.base import CrossEntropy, Objective, Sample
from pruning.errors import PlanError
from pruning.events import Event, Tell, Warned
from pruning.masks import prunable
from pruning.plan import ScoringMode
from pruning.value_range import value_range

Batch = Any  # inputs [n, ...] alone, or (inputs, labels); each a tensor, or dicts of such, inputs also tuples


def warn(event: Event) -> None:
    """Passes warnings on to Python's own and leaves the rest."""
    if isinstance(event, Warned):
        warnings.warn(event.text, stacklevel=4)


def score(
    model: nn.Module,
    criterion: str = "magnitude",
    batch: Batch | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    exclude: Iterable[str] = (),
    include: Iterable[str] = (),
    mode: ScoringMode | None = None,
    micro_batch: int | None = None,
    task: Objective | None = None,
    generator: torch.Generator | None = None,
    seed: int = 0,
    tell: Tell = warn,
) -> dict[str, Tensor]:
    """Returns {name: scores} of the prunable weights, larger = keep; the model is left as it was.

    `batch` is (inputs, labels) or inputs alone, as the criterion needs; `mode` is the modules' mode while scoring, eval
    unless "train"; `micro_batch` examples go through the model at once, at most. In eval mode that changes rounding alone; in
    train mode BatchNorm normalizes by the statistics of each micro-batch, so the scores depend on it, and None is the whole
    sample (:class:`pruning.deciding.criteria.base.Sample`). `task` says how the model is called and what its loss is,
    cross-entropy unless given. `masks` take weights out before scoring.
    Without a `generator` one is derived from `seed`.
    """
    model, batch = arguments.module(model), arguments.batch(batch)
    micro_batch = arguments.whole(micro_batch, "micro_batch", 1)
    entry = find(arguments.word(criterion, "criterion"), mode=mode, micro_batch=micro_batch)
    generator = seeds.generator(seed, "scores") if generator is None else generator
    sample = make_sample(criterion, batch, mode, micro_batch, generator, task)
    weights = prunable_weights(model, exclude, masks, include)
    scores = take(entry, model, masked(weights, masks), sample)
    check(criterion, scores, masks, tell)
    return scores


def take(entry: Criterion, model: nn.Module, weights: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Returns the criterion's scores, with gradients on whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        return entry.load()(model, weights, sample)


def prunable_weights(
    model: nn.Module,
    exclude: Iterable[str],
    masks: Mapping[str, Tensor] | None = None,
    include: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Returns {name: weight} without gradients; raises PlanError where `masks` are not of just these weights."""
    weights = {name: parameter.detach() for name, parameter in prunable(model, exclude, include).items()}
    if masks is not None:
        if odd := sorted(weights.keys() ^ masks.keys()):
            raise PlanError(
                f"the present masks and the prunable weights differ in {named(odd)}: exclude and include the same every time"
            )
        if odd := [name for name, weight in weights.items() if masks[name].shape != weight.shape]:
            raise PlanError(f"the present masks have other shapes than the weights in {named(odd)}")
    return weights


def masked(weights: dict[str, Tensor], masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Returns the weights with +0 where the masks prune."""
    if masks is None:
        return weights
    return {name: weight.where(masks[name].to(weight.device), 0) for name, weight in weights.items()}


def find(criterion: str, **options: object) -> Criterion:
    """Returns the criterion's entry; raises PlanError for an unknown name or an option that it does not use."""
    entry = CRITERIA.find(criterion)
    settings = {"rounds": "rounds", "mode": "scoring_mode", "micro_batch": "scoring_batch"}
    for name, value in options.items():
        if value is not None and settings[name] not in entry.options:
            raise PlanError(f"{name} is not used by criterion '{criterion}'")
    for name in ("rounds", "micro_batch"):
        value = options.get(name)
        if isinstance(value, int) and value < 1:
            raise PlanError(f"{name} must be at least 1, not {value}")
    return entry


def make_sample(
    criterion: str,
    batch: Batch | None,
    mode: ScoringMode | None,
    micro_batch: int | None,
    generator: torch.Generator,
    task: Objective | None = None,
) -> Sample:
    """Returns the batch and how to score it; raises PlanError where it is not what the criterion needs."""
    inputs, labels = batch if isinstance(batch, tuple | list) else (batch, None)
    needs = CRITERIA.find(criterion).needs
    if needs != "nothing" and (inputs is None or (needs == "labels" and labels is None)):
        what = "(inputs, labels)" if needs == "labels" else "inputs"
        raise PlanError(f"criterion '{criterion}' scores a sample: give it as batch={what}")
    number = 0 if inputs is None else trees.examples(inputs)
    if inputs is not None and labels is not None and number != trees.examples(labels):
        what = f"{number} inputs and {trees.examples(labels)} labels"
        raise PlanError(f"the batch has {what}; it needs one label for each")
    if inputs is not None and number == 0:
        raise PlanError("the batch is empty")
    if mode not in (None, "eval", "train"):
        raise PlanError(f"mode '{mode}' is unknown; allowed: eval, train")
    task = task() if isinstance(task, type) else task
    return Sample(generator, inputs, labels, mode or "eval", micro_batch, task or CrossEntropy())


def check(criterion: str, scores: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None, tell: Tell) -> None:
    """Raises PlanError where scores are not finite or all 0, and tells of layers whose scores are all 0."""
    ends = {name: value_range(score) for name, score in scores.items()}
    if broken := [name for name, found in ends.items() if not all(map(math.isfinite, found))]:
        raise PlanError(f"criterion '{criterion}' gives scores that are not finite in {named(broken)}")
    dead = [name for name, found in ends.items() if found == (0.0, 0.0)]
    if len(dead) == len(scores):
        raise PlanError(f"criterion '{criterion}' gives every weight the score 0, so there is nothing to rank")
    if masks is not None:
        dead = [name for name in dead if bool(masks[name].any())]
    if dead:
        tell(Warned(f"criterion '{criterion}' gives every weight the score 0 in {named(dead)}"))


def named(names: list[str]) -> str:
    """Returns up to five names and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"'{name}'" for name in names[:5]) + more
