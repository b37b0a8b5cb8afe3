"""Masks that hold under any torch optimizer: it trains the network whose pruned weights are gone.

Gradients of pruned entries are +0 as soon as they are there, so that norms, clipping, curvature (LBFGS) and updates of whole
matrices (Muon, Adafactor) see survivors only; weights and state are +0 after every step. What an optimizer takes over all
entries of a tensor, as Adafactor's means, counts pruned entries as zeros; what Muon's orthogonal matrix has there is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from pruning.errors import PlanError
from pruning.masks import Masks
from pruning.masks.erasing import Eraser
from pruning.masks.shards import aligned, local, sharded
from pruning.training.unwrapping import unwrap


class Enforced:
    """What :func:`enforce` returns: `remove()` ends it, as does leaving a `with` block."""

    def __init__(self, hooks: list[Any]) -> None:
        self._hooks = hooks

    def remove(self) -> None:
        """Takes all hooks off optimizers and parameters: pruned entries are free from now on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Enforced:
        return self

    def __exit__(self, *raised: object) -> None:
        self.remove()


def enforce(
    optimizer: Optimizer | Iterable[Optimizer], model: nn.Module, masks: Masks | Mapping[str, Tensor]
) -> Enforced:
    """Returns a handle whose `remove()` ends it: pruned entries of weights, gradients and state are +0 from now on.

    `optimizer` is any torch optimizer, one inside a wrapper (accelerate, Lightning, timm's Lookahead), or all of several, as
    where each parameter has its own. Names fit in spite of wrappers around the model; of DTensors each rank holds its own part.

    - Gradients are masked when a backward pass has added to them, hence before anything is clipped, and once more before the
      step and after every call of its closure, whoever wrote them.
    - Weights and state are exactly +0 after every step, after the optimizer's load_state_dict, and at once. State is what
      `optimizer.state` holds per parameter in the parameter's shape and as floats (Adam's moments). Factored moments stay as they
      are. LBFGS starts its history anew where that would move pruned entries.

    A pickled or deep-copied optimizer or model loses the hooks, as torch drops them: call `enforce` on the copy. Raises
    PlanError for a mask that fits no parameter, and for a masked parameter that is trained but held by none of the optimizers.
    """
    optimizers = [unwrap(optimizer)] if not isinstance(optimizer, Iterable) else [unwrap(one) for one in optimizer]
    matched = held_by(optimizers, model, masks)
    erasers = {parameter: Eraser(mask) for parameter, mask in matched.items()}
    hooks: list[Any] = []
    for parameter, eraser in erasers.items():
        if parameter.requires_grad:
            hooks.append(parameter.register_post_accumulate_grad_hook(_masker(eraser)))
        with torch.no_grad():
            _mask_gradient(parameter, eraser)
            _erase(parameter, {}, eraser)
    left = dict(erasers)
    for one in reversed(list(dict.fromkeys(optimizers))):
        own = {id(p) for group in one.param_groups for p in group["params"]}
        # the first one holds what is frozen, too: it may get that later, by add_param_group
        ours = [p for p in left if id(p) in own or one is optimizers[0]]
        hooks += _hold(one, {p: left.pop(p) for p in ours})
    return Enforced(hooks)


def mask_gradients(model: nn.Module, masks: Masks | Mapping[str, Tensor]) -> None:
    """Writes +0 to the gradients of pruned entries, so that a norm taken afterwards is that of surviving weights.

    For loops without :func:`enforce`, which does it by itself: between backward and clipping.
    """
    for parameter, mask in (masks if isinstance(masks, Masks) else Masks(masks)).match(model).items():
        _mask_gradient(parameter, Eraser(mask))


def held_by(
    optimizers: Iterable[Optimizer], model: nn.Module, masks: Masks | Mapping[str, Tensor]
) -> dict[nn.Parameter, Tensor]:
    """Returns {parameter: mask}; raises PlanError for one that is trained, but by none of these, and so would not be held."""
    matched = (masks if isinstance(masks, Masks) else Masks(masks)).match(model)
    own = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    names = {id(p): name for name, p in model.named_parameters()}
    if lost := [p for p in matched if id(p) not in own and p.requires_grad]:
        raise PlanError(
            f"the optimizer does not hold '{names[id(lost[0])]}', which has a mask"
            + (f", nor {len(lost) - 1} more" if lost[1:] else "")
            + ": give it the model's parameters, or freeze those (requires_grad_(False))"
            + (", and make it after sharding" if sharded(lost[0]) else "; of several optimizers give all in one list")
        )
    return matched


@torch.no_grad()
def zero_pruned(parameter: Tensor, state: Mapping[str, Any], mask: Tensor) -> None:
    """Writes +0 to pruned entries of a parameter and of those of its state tensors that have its shape."""
    _erase(parameter, state, Eraser(mask))


def _hold(optimizer: Optimizer, erasers: dict[nn.Parameter, Eraser]) -> list[Any]:
    """Returns handles of the hooks on one optimizer, whose state is set right at once."""

    @torch.no_grad()
    def mask_all() -> None:
        for parameter, eraser in erasers.items():
            _mask_gradient(parameter, eraser)

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if own and not any(p in own for group in optimizer.param_groups for p in group["params"]):
            raise PlanError(
                "the optimizer has other parameters than when enforce was called: call it after wrapping and sharding"
            )
        mask_all()
        if len(args) > 1 and callable(args[1]):
            return (args[0], _masking(args[1], mask_all), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            kwargs = {**kwargs, "closure": _masking(kwargs["closure"], mask_all)}
        return args, kwargs

    @torch.no_grad()
    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        state = optimizer.state
        for parameter, eraser in erasers.items():
            _erase(parameter, state.get(parameter, {}), eraser)

    def loaded(optimizer: Optimizer) -> None:
        after(optimizer, (), {})
        if isinstance(optimizer, LBFGS):
            _restart(optimizer, erasers)

    own = {p for group in optimizer.param_groups for p in group["params"] if p in erasers}
    loaded(optimizer)
    return [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
        optimizer.register_load_state_dict_post_hook(loaded),
    ]


def _masking(closure: Callable[[], Any], mask_all: Callable[[], None]) -> Callable[[], Any]:
    def masked() -> Any:
        loss = closure()
        mask_all()
        return loss

    return masked


def _masker(eraser: Eraser) -> Callable[[Tensor], None]:
    def mask(parameter: Tensor) -> None:
        _mask_gradient(parameter, eraser)

    return mask


def _mask_gradient(parameter: Tensor, eraser: Eraser) -> None:
    gradient = parameter.grad
    if gradient is None:
        return
    if gradient.layout is not torch.strided:
        raise PlanError(
            f"a weight of shape {list(parameter.shape)} has a mask and a sparse gradient, which is not masked: "
            "build the embedding with sparse=False"
        )
    if gradient.requires_grad:  # of backward(create_graph=True): its graph must not see a write in place
        parameter.grad = gradient.masked_fill(~eraser.mask.to(gradient.device), 0.0)
        return
    if (fitting := aligned(gradient, parameter)) is not gradient:
        parameter.grad = gradient = fitting
    if 0 in gradient.stride():  # an expanded tensor, several entries of which are one
        parameter.grad = gradient = gradient.clone(memory_format=torch.contiguous_format)
    eraser.erase(gradient)


def _erase(parameter: Tensor, state: Mapping[str, Any], eraser: Eraser) -> None:
    eraser.erase(parameter)
    for value in state.values():
        if eraser.fits(value):
            eraser.erase(value)


@torch.no_grad()
def _restart(optimizer: LBFGS, erasers: Mapping[nn.Parameter, Eraser]) -> None:
    """Forgets LBFGS's history where it has something to say on pruned entries: its curvature is that of another network."""
    params = optimizer.param_groups[0]["params"]
    state = optimizer.state.get(params[0], {})
    flat = [t for t in (state.get("d"), state.get("prev_flat_grad")) if t is not None]
    flat += [*(state.get("old_dirs") or ()), *(state.get("old_stps") or ())]
    if not flat:
        return
    gone = [~erasers[p].mask if p in erasers else torch.zeros_like(local(p), dtype=torch.bool) for p in params]
    pruned = torch.cat([mask.flatten().to(flat[0].device) for mask in gone])
    if any(t.shape != pruned.shape or bool(t[pruned].any()) for t in flat):
        state.clear()
