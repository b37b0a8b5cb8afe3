"""One step of SGD on listed survivors alone: the rule of `masked_sgd_` at a cost that falls with sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pruning.ops.library import FLOATS, check_dtypes, check_shapes, define, explained, one_device
from pruning.ops.masked_sgd import check_rule, stepped


def indexed_sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    indices: Sequence[Tensor],
    *,
    lr: float | Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    first: bool = False,
) -> None:
    """Returns nothing; updates the listed entries of `params`, and `momenta`, in place, to the bits of `masked_sgd_`.

    `indices` (int32 or int64 [k], ascending) are the row-major places of a parameter's survivors, and `momenta` hold
    theirs alone ([k]; float32, or float64 for float64 parameters; an empty list where momentum is 0). All else stays as
    it is: pruned weights are +0 afterwards if they were before. Rule, dtypes and `lr` are those of `masked_sgd_`. On the
    CPU lists that do not ascend are refused; CUDA kernels leave places beyond a parameter alone, and otherwise trust.
    """
    params, momenta = list(params), list(momenta) if momentum else []
    rate, rate_tensor = (0.0, lr) if isinstance(lr, Tensor) else (float(lr), None)
    _op(
        params,
        list(grads),
        momenta,
        list(indices),
        rate,
        rate_tensor,
        momentum,
        dampening,
        weight_decay,
        nesterov,
        first,
    )
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version([*params, *momenta])


def _check(
    params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], indices: list[Tensor], lr: float,
    lr_tensor: Tensor | None, momentum: float, dampening: float, weight_decay: float, nesterov: bool, first: bool,
) -> None:  # fmt: skip
    check_dtypes("params", params, FLOATS)
    check_shapes("grads", grads, params, "params")
    check_dtypes("indices", indices, (torch.int32, torch.int64))
    if len(indices) != len(params):
        raise ValueError(f"indices has {len(indices)} tensors for {len(params)} params")
    if momentum:
        check_shapes("momenta", momenta, indices, "indices")
    for i, (p, g, at) in enumerate(zip(params, grads, indices, strict=True)):
        check_dtypes(f"grads[{i}:]", [g], (p.dtype,))
        check_dtypes(f"momenta[{i}:]", momenta[i : i + 1], (_wide(p),))
        if at.dim() != 1:
            raise ValueError(f"indices[{i}] has shape {tuple(at.shape)}; allowed is one dimension")
    check_rule(params, lr_tensor, momentum, dampening, nesterov)
    one_device([*params, *grads, *momenta, *indices])


def _check_places(
    params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], indices: list[Tensor], *rule: Any
) -> None:
    _check(params, grads, momenta, indices, *rule)
    for i, (param, at) in enumerate(zip(params, indices, strict=True)):
        if at.numel() and not (at[0] >= 0 and bool((at.diff() > 0).all()) and at[-1] < param.numel()):
            raise ValueError(f"indices[{i}] must ascend, without repetition, from 0 to {param.numel() - 1} at most")


def _reference(
    params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], indices: list[Tensor], lr: float,
    lr_tensor: Tensor | None, momentum: float, dampening: float, weight_decay: float, nesterov: bool, first: bool,
) -> None:  # fmt: skip
    _check_places(params, grads, momenta, indices, lr, lr_tensor, momentum, dampening, weight_decay, nesterov, first)
    for i, (param, at) in enumerate(zip(params, indices, strict=True)):
        wide, at = _wide(param), at.long()
        values = param.flatten()
        weight = values[at].to(wide)
        step, velocity = stepped(
            weight, grads[i].flatten()[at].to(wide), None if first or not momentum else momenta[i],
            momentum, dampening, weight_decay, nesterov,
        )  # fmt: skip
        if momentum:
            momenta[i].copy_(velocity)
        moved = step * (lr if lr_tensor is None else lr_tensor.to(wide))
        param.copy_(values.index_copy(0, at, (weight - moved).to(param.dtype)).view(param.shape))


def _wide(param: Tensor) -> torch.dtype:
    return torch.float64 if param.dtype == torch.float64 else torch.float32


_op = explained(
    define(
        "indexed_sgd_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momenta, Tensor[] indices, float lr,"
        " Tensor? lr_tensor, float momentum, float dampening, float weight_decay, bool nesterov, bool first) -> ()",
        _reference,
        _check,
    ),
    _check_places,
)
