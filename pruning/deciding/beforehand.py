"""What is looked at before weights go: zeros that would return, weights that are transformed, parameters without a mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from pruning.deciding.scoring import named
from pruning.errors import PlanError
from pruning.events import Tell, Warned
from pruning.masks import count_nonzeros, unpruned
from pruning.masks.prunable import fits
from pruning.masks.reparametrized import reparametrized
from pruning.masks.unpruned import TELLING, all_weights, sentence


def refuse_regrowth(weights: Mapping[str, Tensor], keep: int) -> None:
    """Raises PlanError where weights without masks are sparser already than what is to be kept: zeros would be free to grow."""
    total = sum(weight.numel() for weight in weights.values())
    nonzero = sum(count_nonzeros(list(weights.values())))
    if total and total - nonzero > TELLING * total and keep > nonzero:
        raise PlanError(
            f"{1 - nonzero / total:.4g} of the prunable weights are 0 already and there are no masks, so that sparsity "
            f"{1 - keep / total:.4g} would free {keep - nonzero:,} of them to regrow: give the zeros as "
            "masks=Masks.from_zeros(model) (prune adopt --masks-from-zeros) and a higher sparsity, or, where they may return, "
            "masks=Masks.full(pruning.masks.prunable(model))"
        )


def refuse_reparametrized(
    model: nn.Module, weights: Mapping[str, Tensor], call: Callable[[nn.Module], Any] | None = None
) -> None:
    """Raises PlanError where the network multiplies by something computed from a weight that has no zeros where it has."""
    if found := reparametrized(model, weights, call):
        kinds = {type(model.get_submodule(name.rpartition(".")[0])).__name__ for name in found}
        raise PlanError(
            f"the network transforms {named(found)} before it multiplies by them ({', '.join(sorted(kinds))}), so that pruned "
            "weights are not 0 there: exclude them, or set allow_reparametrized (--allow-reparametrized), and the speedup counts "
            "what is really 0"
        )


def tell_unpruned(model: nn.Module, masks: Iterable[str], exclude: Iterable[str], tell: Tell) -> None:
    """Tells in one line of the parameters of two or more dimensions that have no mask, but for those that were excluded."""
    patterns = list(exclude)
    left = [
        entry
        for entry in unpruned(model, masks)
        if not all(any(fits(name, pattern) for pattern in patterns) for name in entry["parameters"])
    ]
    if left:
        tell(Warned(sentence(left, all_weights(model))))
