"""One pruning decision: from a prune phase's settings to masks."""

from __future__ import annotations

from torch import nn

from pruning import api
from pruning.engine.session import Session, Setting
from pruning.masks import Masks, keep_count, prunable
from pruning.plan import PlanError, Prune
from pruning.seeds import generator


def check(network: nn.Module, phase: Prune, present: Masks | None) -> None:
    """Raises PlanError where the phase cannot be done to the network."""
    weights = prunable(network, phase.exclude)
    if present is not None and list(present) != list(weights):
        raise PlanError(
            f"exclude {list(phase.exclude)} leaves {len(weights)} prunable tensors, but the run has masks for {len(present)}; "
            "exclude the same layers in every pruning of a history"
        )
    total = sum(w.numel() for w in weights.values())
    kept = total if present is None else present.kept
    if keep_count(total, phase.sparsity) > kept:
        raise PlanError(f"sparsity {phase.sparsity:g} is less than the present sparsity, {1 - kept / total:g}")


def masks(session: Session, setting: Setting, network: nn.Module, phase: Prune, present: Masks | None) -> Masks:
    """Returns the masks that the phase asks for, within the present ones."""
    return api.decide(
        network,
        phase.criterion,
        1.0 - phase.sparsity,
        allocation=phase.allocation,
        masks=present,
        exclude=phase.exclude,
        min_per_layer=phase.min_per_layer,
        rates=phase.layer_rates or None,
        generator=generator(setting.train.seed, "scores"),
        tell=session.tell,
    )
