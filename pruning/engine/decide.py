"""One pruning decision: from a prune phase's settings to masks."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pruning.deciding import ablations, decision
from pruning.deciding.allocation import shared
from pruning.deciding.criteria import CRITERIA
from pruning.deciding.filters import prune_filters
from pruning.engine.session import Session, Setting
from pruning.masks import Masks, keep_count, prunable
from pruning.plan import PlanError, Prune
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


def check(setting: Setting, network: nn.Module, phase: Prune, present: Masks | None) -> None:
    """Raises PlanError where the phase cannot be done to the network."""
    weights = prunable(network, phase.exclude)
    if present is not None and list(present) != list(weights):
        raise PlanError(
            f"exclude {list(phase.exclude)} leaves {len(weights)} prunable tensors, but the run has masks for {len(present)}; "
            "exclude the same layers in every pruning of a history"
        )
    if phase.recalibrate != "none" and not any(name.endswith("running_mean") for name, _ in network.named_buffers()):
        raise PlanError(
            f"recalibrate '{phase.recalibrate}' renews running statistics; model '{setting.train.model}' has none; allowed: none"
        )
    if phase.structure == "filters":
        _without_filters(setting, network, phase, present)
        return
    total = sum(w.numel() for w in weights.values())
    kept = total if present is None else present.kept
    if keep_count(total, phase.sparsity) > kept:
        raise PlanError(f"sparsity {phase.sparsity:g} is less than the present sparsity, {1 - kept / total:g}")
    shapes = {name: weight.shape for name, weight in weights.items()}
    shared(
        shapes,
        1.0 - phase.sparsity,
        phase.allocation,
        masks=present,
        min_per_layer=phase.min_per_layer,
        rates=phase.layer_rates or None,
    )
    _sample(setting, phase)


def masks(session: Session, setting: Setting, network: nn.Module, phase: Prune, present: Masks | None) -> Masks:
    """Returns the masks that the phase asks for, within the present ones."""
    if phase.structure == "filters":
        return _without_filters(setting, network, phase, present)
    return decision.decide(
        network,
        phase.criterion,
        1.0 - phase.sparsity,
        allocation=phase.allocation,
        masks=present,
        batch=_sample(setting, phase),
        exclude=phase.exclude,
        rounds=phase.rounds,
        mode=phase.scoring_mode,
        ablation=phase.ablation,
        min_per_layer=phase.min_per_layer,
        rates=phase.layer_rates or None,
        generator=generator(setting.train.seed, "scores"),
        tell=session.tell,
    )


def _without_filters(setting: Setting, network: nn.Module, phase: Prune, present: Masks | None) -> Masks:
    return prune_filters(
        network,
        None if phase.filter_rates else phase.sparsity,
        pooling="random" if phase.criterion == "random" else phase.filter_norm or "l1",
        allocation=phase.allocation,
        rates=phase.filter_rates,
        level=phase.filter_level or 1,
        masks=present,
        exclude=phase.exclude,
        generator=generator(setting.train.seed, "scores"),
    )


def put(setting: Setting, network: nn.Module, phase: Prune, masks: Masks) -> bool:
    """Puts the masks on the network; returns whether it keeps its weights, which the ablation "reinit" draws anew."""
    if phase.ablation == "reinit":
        ablations.reinitialize(network, lambda: setting.build(derive(setting.train.seed, "ablation", "reinit")), masks)
        return False
    masks.apply(network)
    return True


def _sample(setting: Setting, phase: Prune) -> decision.Batch | None:
    """Returns what the criterion scores: a class-balanced sample of training images, one image for its shape, or none."""
    needs = CRITERIA[phase.criterion].needs
    if needs == "labels":
        return setting.data.balanced(phase.samples_per_class or SAMPLES_PER_CLASS, setting.train.seed)
    return setting.data.example() if needs == "inputs" else None
