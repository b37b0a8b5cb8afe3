"""Masks at one bit per weight: entry i in row-major order is bit i % 8 (least significant first) of byte i // 8."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pruning.ops.library import check_dtypes, define, explained


def pack(mask: Tensor) -> Tensor:
    """Returns the mask's bits (uint8 [ceil(n / 8)], same device); the last byte is filled up with zeros."""
    return _pack(mask)


def unpack(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns the bool mask of that shape that `pack` made the bits from."""
    return _unpack(bits, list(shape))


def packed_size(n: int) -> int:
    """Returns the number of bytes that n bits take."""
    return (n + 7) // 8


def _pack_reference(mask: Tensor) -> Tensor:
    check_dtypes("mask", [mask], (torch.bool,))
    flat = torch.nn.functional.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8))
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (flat.view(-1, 8) << shifts).sum(dim=1, dtype=torch.uint8)


def _pack_fake(mask: Tensor) -> Tensor:
    check_dtypes("mask", [mask], (torch.bool,))
    return torch.empty(packed_size(mask.numel()), dtype=torch.uint8, device=mask.device)


def _check_bits(bits: Tensor, shape: list[int]) -> None:
    check_dtypes("bits", [bits], (torch.uint8,))
    size = packed_size(math.prod(shape))
    if bits.shape != (size,):
        raise ValueError(f"bits has shape {tuple(bits.shape)}; a mask of {tuple(shape)} has [{size}]")


def _unpack_reference(bits: Tensor, shape: list[int]) -> Tensor:
    _check_bits(bits, shape)
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits.unsqueeze(1) >> shifts) & 1).flatten()[: math.prod(shape)].bool().view(shape)


def _unpack_fake(bits: Tensor, shape: list[int]) -> Tensor:
    _check_bits(bits, shape)
    return torch.empty(shape, dtype=torch.bool, device=bits.device)


_pack = explained(define("pack(Tensor mask) -> Tensor", _pack_reference, _pack_fake), _pack_fake)
_unpack = explained(define("unpack(Tensor bits, int[] shape) -> Tensor", _unpack_reference, _unpack_fake), _check_bits)
