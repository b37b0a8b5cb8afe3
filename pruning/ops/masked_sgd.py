"""One step of SGD under masks: torch.optim.SGD's rule for surviving weights, exactly +0 for pruned ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pruning.ops.library import FLOATS, check_dtypes, check_shapes, define, explained, one_device
from pruning.ops.packing import packed_size, unpack


def masked_sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    lr: float | Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    first: bool = False,
    masters: Sequence[Tensor] | None = None,
) -> None:
    """Returns nothing; updates `params` and `momenta` (and `masters`) in place, and never touches `grads`.

    With g <- grad + weight_decay * w, for surviving weights, as torch.optim.SGD has it:
    m <- momentum * m + (1 - dampening) * g (m <- g where `first`), d <- g + momentum * m with `nesterov`, else m (g
    where momentum is 0), w <- w - lr * d. Where a mask is False w and m become +0, whatever they and the gradient held.

    `params` are float32, float64, bfloat16 or float16 and `grads` alike. `momenta` are float32 (float64 for float64
    parameters), or an empty list where momentum is 0. `masters` are float32 copies of 16-bit parameters: the step is
    done on them and the parameters are their rounding. `masks` are bool of the parameters' shapes or `pack`ed bits.
    `lr` is a number or a 0-d float32 or float64 tensor, so that a CUDA graph that was captured follows a schedule.
    """
    params, momenta, masters = list(params), list(momenta) if momentum else [], [] if masters is None else list(masters)
    rate, rate_tensor = (0.0, lr) if isinstance(lr, Tensor) else (float(lr), None)
    _op(
        params, list(grads), momenta, list(masks), masters, rate, rate_tensor,
        momentum, dampening, weight_decay, nesterov, first,
    )  # fmt: skip
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version([*params, *momenta, *masters])


def check_rule(
    params: list[Tensor], lr_tensor: Tensor | None, momentum: float, dampening: float, nesterov: bool
) -> None:
    """Refuses a rule that torch.optim.SGD would refuse, and a rate that is no number."""
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError("nesterov needs a momentum above 0 and a dampening of 0")
    if lr_tensor is None:
        return
    if lr_tensor.dim() or lr_tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError("lr must be a number or a 0-d float32 or float64 tensor")
    if lr_tensor.device.type != "cpu":
        one_device([lr_tensor, *params])


def stepped(
    weight: Tensor, grad: Tensor, velocity: Tensor | None, momentum: float, dampening: float, weight_decay: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns what the rate multiplies, and the new momentum; `velocity` is the old one, None where there is none yet."""
    if weight_decay:
        grad = grad.add(weight, alpha=weight_decay)
    velocity = grad if velocity is None else velocity.mul(momentum).add(grad, alpha=1 - dampening)
    if not momentum:
        return grad, velocity
    return (grad.add(velocity, alpha=momentum) if nesterov else velocity), velocity


def _check(
    params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], masks: list[Tensor], masters: list[Tensor],
    lr: float, lr_tensor: Tensor | None, momentum: float, dampening: float, weight_decay: float, nesterov: bool,
    first: bool,
) -> None:  # fmt: skip
    check_dtypes("params", params, FLOATS)
    check_shapes("grads", grads, params, "params")
    check_dtypes("masks", masks, (torch.bool, torch.uint8))
    for name, tensors in (("momenta", momenta), ("masters", masters)):
        if tensors:
            check_shapes(name, tensors, params, "params")
    if masters:
        _check_masters(params, masters)
    if len(masks) != len(params):
        raise ValueError(f"masks has {len(masks)} tensors for {len(params)} params")
    if momentum and len(momenta) != len(params):
        raise ValueError(f"momenta has {len(momenta)} tensors for {len(params)} params")
    for i, (p, g, mask) in enumerate(zip(params, grads, masks, strict=True)):
        wide = torch.float64 if p.dtype == torch.float64 else torch.float32
        check_dtypes(f"grads[{i}:]", [g], (p.dtype,))
        check_dtypes(f"momenta[{i}:]", momenta[i : i + 1], (wide,))
        shape = p.shape if mask.dtype == torch.bool else (packed_size(p.numel()),)
        if mask.shape != shape:
            raise ValueError(f"masks[{i}] has shape {tuple(mask.shape)}; allowed is {tuple(shape)}")
    check_rule(params, lr_tensor, momentum, dampening, nesterov)
    one_device([*params, *grads, *momenta, *masks, *masters])


def _check_masters(params: list[Tensor], masters: list[Tensor]) -> None:
    check_dtypes("masters", masters, (torch.float32,))
    for i, (p, master) in enumerate(zip(params, masters, strict=True)):
        if p.dtype == torch.float64:
            raise ValueError(f"masters[{i}] is float32 and params[{i}] float64; masters are for bfloat16 and float16")
        if master.device != p.device:
            raise ValueError(f"masters[{i}] is on {master.device}; params[{i}] is on {p.device}")


def _reference(
    params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], masks: list[Tensor], masters: list[Tensor],
    lr: float, lr_tensor: Tensor | None, momentum: float, dampening: float, weight_decay: float, nesterov: bool,
    first: bool,
) -> None:  # fmt: skip
    _check(params, grads, momenta, masks, masters, lr, lr_tensor, momentum, dampening, weight_decay, nesterov, first)
    for i, (param, mask) in enumerate(zip(params, masks, strict=True)):
        wide = torch.float64 if param.dtype == torch.float64 else torch.float32
        kept = mask if mask.dtype == torch.bool else unpack(mask, param.shape)
        weight = masters[i] if masters else param.to(wide)
        step, velocity = stepped(
            weight, grads[i].to(wide), None if first or not momentum else momenta[i],
            momentum, dampening, weight_decay, nesterov,
        )  # fmt: skip
        if momentum:
            momenta[i].copy_(velocity.where(kept, 0))
        moved = step * (lr if lr_tensor is None else lr_tensor.to(wide))
        for target in (param, *masters[i : i + 1]):
            target.copy_((weight - moved).where(kept, 0))


_op = explained(
    define(
        "masked_sgd_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momenta, Tensor[] masks, Tensor(c!)[] masters,"
        " float lr, Tensor? lr_tensor, float momentum, float dampening, float weight_decay, bool nesterov, bool first)"
        " -> ()",
        _reference,
        _check,
    ),
    _check,
)
