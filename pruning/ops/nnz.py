"""Nonzero entries of every tensor of a list, counted in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pruning.ops.library import FLOATS, check_dtypes, define, explained, one_device

COUNTABLE = (*FLOATS, torch.bool, torch.uint8)


def nnz(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the number of nonzero entries of every tensor (int64 [len(tensors)], on the tensors' device).

    bool counts what is True; uint8 is read as a `pack`ed mask, whose set bits are counted; in floats NaN counts and -0
    does not. All tensors live on one device.
    """
    return _op(list(tensors))


def _reference(tensors: list[Tensor]) -> Tensor:
    check_dtypes("tensors", tensors, COUNTABLE)
    counts = [_set_bits(t) if t.dtype == torch.uint8 else t.count_nonzero() for t in tensors]
    device = one_device(tensors)
    return torch.stack(counts) if counts else torch.zeros(0, dtype=torch.int64, device=device)


def _set_bits(bits: Tensor) -> Tensor:  # uint8 [...] -> int64 []
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits.unsqueeze(-1) >> shifts) & 1).sum(dtype=torch.int64)


def _fake(tensors: list[Tensor]) -> Tensor:
    check_dtypes("tensors", tensors, COUNTABLE)
    return torch.empty(len(tensors), dtype=torch.int64, device=one_device(tensors))


_op = explained(define("nnz(Tensor[] tensors) -> Tensor", _reference, _fake), _fake)
