"""Masks of the `keep` largest entries over a list of tensors: exact, deterministic, ties to the earlier entry.

Order: larger first; +0 and -0 are equal; NaN ranks below everything; what is equal goes to the earlier tensor, then to
the lower index in row-major order of the shape, whatever the memory layout. With `magnitude` |x| takes the place of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pruning.ops.library import FLOATS, check_dtypes, check_shapes, define, explained, one_device


def topk_masks(
    tensors: Sequence[Tensor],
    keep: int | Sequence[int],
    magnitude: bool = False,
    alive: Sequence[Tensor] | None = None,
    *,
    out: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Returns one bool mask per tensor, True for the `keep` largest entries of all tensors together.

    `keep` as a sequence holds one count per tensor instead, and every tensor is ranked alone. `alive` (bool, the
    tensors' shapes) leaves the entries that are False out of the ranking: their masks are False; where fewer than
    `keep` are alive, all that are alive are kept. `out` (bool, the tensors' shapes) is written in place and returned;
    it must not overlap `tensors` or `alive`. float32, float64, bfloat16 or float16, mixed as one likes, one device.
    """
    return topk_masks_counts(tensors, keep, magnitude, alive, out=out)[0]


def topk_masks_counts(
    tensors: Sequence[Tensor],
    keep: int | Sequence[int],
    magnitude: bool = False,
    alive: Sequence[Tensor] | None = None,
    *,
    out: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Returns the masks of `topk_masks` and how many entries each keeps (int64 [len(tensors)], on their device)."""
    tensors = list(tensors)
    keeps = [int(keep)] if isinstance(keep, int) else [int(k) for k in keep]
    masks = [torch.empty_like(t, dtype=torch.bool) for t in tensors] if out is None else list(out)
    counts = _op(tensors, keeps, magnitude, [] if alive is None else list(alive), masks)
    if out is not None and not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(masks)
    return masks, counts


def _check(
    tensors: list[Tensor], keep: list[int], magnitude: bool, alive: list[Tensor], out: list[Tensor]
) -> torch.device:
    check_dtypes("tensors", tensors, FLOATS)
    check_shapes("out", out, tensors, "tensors")
    check_dtypes("out", out, (torch.bool,))
    if alive:
        check_shapes("alive", alive, tensors, "tensors")
        check_dtypes("alive", alive, (torch.bool,))
    sizes = [t.numel() for t in tensors]
    if len(keep) == 1 and len(tensors) != 1:
        sizes = [sum(sizes)]
    if len(keep) != len(sizes):
        raise ValueError(f"keep has {len(keep)} counts for {len(tensors)} tensors; give one in all or one each")
    for k, n in zip(keep, sizes, strict=True):
        if not 0 <= k <= n:
            raise ValueError(f"keep is {k}; allowed is 0 to {n}, the number of entries")
    return one_device([*tensors, *alive, *out])


def _reference(
    tensors: list[Tensor], keep: list[int], magnitude: bool, alive: list[Tensor], out: list[Tensor]
) -> Tensor:
    device = _check(tensors, keep, magnitude, alive, out)
    if not tensors:
        return torch.zeros(0, dtype=torch.int64, device=device)
    wide = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    ranks = [_ranks(t.to(wide), magnitude) for t in tensors]
    for rank, a in zip(ranks, alive, strict=False):
        rank[~a.flatten()] = torch.iinfo(rank.dtype).min
    if len(keep) == len(tensors):
        kept = [_largest(rank, k) for rank, k in zip(ranks, keep, strict=True)]
    else:
        kept = list(_largest(torch.cat(ranks), keep[0]).split([r.numel() for r in ranks]))
    for i, mask in enumerate(kept):
        out[i].copy_(mask.view(out[i].shape))
        if alive:
            out[i].logical_and_(alive[i])
    return torch.stack([mask.sum() for mask in out])


def _ranks(x: Tensor, magnitude: bool) -> Tensor:
    # an IEEE float's bits below the sign order like its magnitude, denormals too, even where the machine flushes them
    bits = x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64).flatten()
    limits = torch.iinfo(bits.dtype)
    size = bits & limits.max
    rank = size if magnitude else torch.where(bits < 0, -size, size)
    return rank.masked_fill(x.isnan().flatten(), limits.min + 1)  # the minimum itself is left for what is not alive


def _largest(rank: Tensor, keep: int) -> Tensor:  # [n] -> bool [n], exactly `keep` True
    if keep == 0:
        return torch.zeros_like(rank, dtype=torch.bool)
    threshold = rank.kthvalue(rank.numel() - keep + 1).values
    above, equal = rank > threshold, rank == threshold
    return above | (equal & (equal.cumsum(0) <= keep - above.sum()))


def _fake(tensors: list[Tensor], keep: list[int], magnitude: bool, alive: list[Tensor], out: list[Tensor]) -> Tensor:
    return torch.empty(len(tensors), dtype=torch.int64, device=_check(tensors, keep, magnitude, alive, out))


_op = explained(
    define(
        "topk_masks(Tensor[] tensors, int[] keep, bool magnitude, Tensor[] alive, Tensor(a!)[] out) -> Tensor",
        _reference,
        _fake,
    ),
    _check,
)
