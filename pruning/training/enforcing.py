"""Masks that hold under any torch optimizer: pruned entries of weights and of its state are +0 after every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.errors import PlanError
from pruning.masks import Masks


def enforce(optimizer: torch.optim.Optimizer, model: nn.Module, masks: Masks | Mapping[str, Tensor]) -> RemovableHandle:
    """Returns a handle whose `remove()` ends it: after every step pruned entries of weights and state are exactly +0.

    Works on any torch optimizer, and at once on what is there. State is what `optimizer.state` holds per parameter in
    the parameter's shape (Adam's moments); others (LBFGS's history, factored moments) stay as they are. A pickled or
    deep-copied optimizer loses the hook, as torch drops all step hooks: call `enforce` on the copy.
    """
    matched = held_by(optimizer, model, masks)

    def hold(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, mask in matched.items():
            zero_pruned(parameter, optimizer.state.get(parameter, {}), mask)

    hold(optimizer, (), {})
    return optimizer.register_step_post_hook(hold)


@torch.no_grad()
def mask_gradients(model: nn.Module, masks: Masks | Mapping[str, Tensor]) -> None:
    """Writes +0 to the gradients of pruned entries, so that a norm taken afterwards is that of surviving weights."""
    for parameter, mask in (masks if isinstance(masks, Masks) else Masks(masks)).match(model).items():
        if parameter.grad is not None:
            parameter.grad.masked_fill_(~mask, 0.0)


def held_by(
    optimizer: torch.optim.Optimizer, model: nn.Module, masks: Masks | Mapping[str, Tensor]
) -> dict[nn.Parameter, Tensor]:
    """Returns {parameter: mask}; raises PlanError for one that is trained, but not by this optimizer, and so would not be held."""
    matched = (masks if isinstance(masks, Masks) else Masks(masks)).match(model)
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = {id(p): name for name, p in model.named_parameters()}
    if lost := [names[id(p)] for p in matched if id(p) not in own and p.requires_grad]:
        raise PlanError(
            f"the optimizer does not hold '{lost[0]}', which has a mask"
            + (f", nor {len(lost) - 1} more" if lost[1:] else "")
            + ": give it the model's parameters, or freeze those (requires_grad_(False))"
        )
    return matched


@torch.no_grad()
def zero_pruned(parameter: Tensor, state: Mapping[str, Any], mask: Tensor) -> None:
    """Writes +0 to pruned entries of a parameter and of those of its state tensors that have its shape."""
    pruned = ~mask
    parameter.masked_fill_(pruned, 0.0)
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.masked_fill_(pruned, 0.0)
