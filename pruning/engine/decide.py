"""One pruning decision: from a prune phase's settings to masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from pruning.deciding.ablations import ABLATIONS
from pruning.deciding.beforehand import refuse_reparametrized, tell_unpruned
from pruning.deciding.criteria import CRITERIA
from pruning.deciding.decision import Batch, Decision, put
from pruning.engine.session import Session, Workbench
from pruning.events import Event, silent
from pruning.masks import Masks, keep_count, prunable
from pruning.plan import PlanError, Prune, Retrain, Train
from pruning.record import kept, runs
from pruning.seeds import derive, generator

SAMPLES_PER_CLASS = 10  # Frankle et al. (2021, section 3)


def source(phase: Prune, parent: Path) -> Path | None:
    """Returns the file of the kept state that the phase prunes in place of the parent's last; None without one."""
    if phase.at_epoch is None and phase.at_step is None:
        return None
    if len(runs.history(parent)) > 1:
        raise PlanError(f"at_epoch and at_step prune the states that a training kept; '{parent}' is not a training")
    return kept.kept_state(parent, phase.at_epoch, phase.at_step, "pruning is asked for at")


def check(bench: Workbench, network: nn.Module, phase: Prune, present: Masks | None) -> None:
    """Raises PlanError where the phase cannot be done to the network."""
    asked = Decision.of(phase)
    weights = prunable(network, asked.exclude, asked.include)
    if present is not None and list(present) != list(weights):
        raise PlanError(
            f"exclude {list(asked.exclude)} and include {list(asked.include)} leave {len(weights)} prunable tensors, but the run "
            f"has masks for {len(present)}; exclude and include the same in every pruning of a history"
        )
    if phase.recalibrate != "none" and not any(name.endswith("running_mean") for name, _ in network.named_buffers()):
        raise PlanError(
            f"recalibrate '{phase.recalibrate}' renews running statistics; model '{bench.train.model}' has none; allowed: none"
        )
    if asked.filters is not None:
        asked.decide(network, masks=present, generator=generator(bench.train.seed, "scores"), tell=silent)
        return
    total = sum(w.numel() for w in weights.values())
    kept = total if present is None else present.kept
    if keep_count(total, asked.sparsity) > kept:
        raise PlanError(f"sparsity {asked.sparsity:g} is less than the present sparsity, {1 - kept / total:g}")
    asked.share(weights, present)
    asked.check()
    if not phase.allow_reparametrized:
        refuse_reparametrized(network, weights, one_example(bench))
    _sample(bench, phase)


def one_example(bench: Workbench) -> Callable[[nn.Module], Any]:
    """Returns what calls a network on the data's first example."""
    return lambda network: bench.task.forward(network, bench.data.example())


def check_method(bench: Workbench, network: nn.Module, phase: Train | Retrain) -> Event | None:
    """Raises PlanError where what a method prunes cannot be pruned; returns what is to be told of weights left dense."""
    weights = prunable(network, phase.exclude, phase.include)
    if phase.method == "none":
        return None
    if not phase.allow_reparametrized:
        refuse_reparametrized(network, weights, one_example(bench))
    told: list[Event] = []
    tell_unpruned(network, weights, phase.exclude, told.append)
    return told[0] if told else None


def masks(session: Session, bench: Workbench, network: nn.Module, phase: Prune, present: Masks | None) -> Masks:
    """Returns the masks that the phase asks for, within the present ones."""
    asked = Decision.of(phase)
    return asked.decide(
        network,
        masks=present,
        batch=None if asked.filters else _sample(bench, phase),
        task=bench.task,
        generator=generator(bench.train.seed, "scores"),
        tell=session.tell,
    )


def put_on(bench: Workbench, network: nn.Module, phase: Prune, masks: Masks) -> bool:
    """Puts the masks on the network; returns whether it keeps its weights, which the ablation "reinit" draws anew."""
    ablation = None if phase.ablation is None else ABLATIONS.find(phase.ablation)
    return put(network, masks, ablation, lambda: bench.build(derive(bench.train.seed, "ablation", "reinit")))


def _sample(bench: Workbench, phase: Prune) -> Batch | None:
    """Returns what the criterion scores: a sample of training examples, one of them for its shape, or none.

    The sample is class-balanced where the task has it so, else as many random examples.
    """
    needs = CRITERIA.find(phase.criterion).needs
    if needs == "labels":
        per_class, data = phase.samples_per_class or SAMPLES_PER_CLASS, bench.data
        if bench.task.class_balanced:
            return data.balanced(per_class, bench.train.seed)
        return data.sample(per_class * data.classes, bench.train.seed)
    return bench.data.example() if needs == "inputs" else None
