"""MACs of single operations of torch: what is multiplied with what, and how often."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PRODUCTS = (
    "convolution", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addbmm", "addmv", "_int_mm", "_scaled_mm",
    "_scaled_mm_v2", "_trilinear",
)  # fmt: skip
ATTENTION = ("_scaled_dot_product", "_flash_attention_forward", "_efficient_attention_forward")
GROUPED = ("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2")
ARITHMETIC = (
    "_fft", "mkldnn_rnn", "_thnn", "_cudnn_rnn", "_flash", "_efficient", "_weight_int", "_foreach_mm", "_cslt", "_sparse",
)  # fmt: skip  # that nothing here counts
VIEWS = {
    "t", "transpose", "permute", "view", "_unsafe_view", "_reshape_alias", "reshape", "expand", "select", "slice", "narrow",
    "detach", "alias", "unsqueeze", "squeeze", "split", "split_with_sizes", "unbind", "chunk", "as_strided", "unflatten",
    "flatten", "mT", "lift_fresh",
}  # fmt: skip


def product(name: str, args: tuple[Any, ...], out: Any) -> tuple[list[Tensor], int]:
    """Returns (operands that may be weights, MACs) of an operation in PRODUCTS with these arguments and this output."""
    if name == "convolution":  # input, weight, bias, stride, padding, dilation, transposed ...
        return [args[1]], args[1].numel() * ((args[0] if args[6] else out).numel() // max(args[1].shape[0], 1))
    if name == "_trilinear":  # input, weight, input: [N, 1, in1], [1, out, in1, in2], [N, 1, in2]
        return [args[1]], args[1].numel() * (args[0].numel() // max(args[0].shape[-1], args[0].shape[-2], 1))
    first, second = args[1:3] if name.startswith(("add", "badd")) else args[:2]
    if name in ("mv", "addmv", "dot", "vdot"):
        return [first, second], int(first.numel())
    return [first, second], int(first.numel()) * int(second.shape[-1])


def attention(name: str, args: tuple[Any, ...]) -> int:
    """Returns the MACs of q k^T and of its product with v, of all positions whether masked or not.

    Shapes are [N, heads, L, E], of keys and values [N, heads or fewer, S, E]; the forward functions have [N, L, heads, E].
    """
    q, k, v = args[:3]
    length = k.shape[-2] if name.startswith("_scaled_dot_product") else k.shape[-3]
    return int(q.numel() * length + q.numel() // q.shape[-1] * v.shape[-1] * length)


DISTANCES = ("_cdist_forward", "_euclidean_dist", "_pdist_forward")


def distances(name: str, args: tuple[Any, ...]) -> int:
    """Returns the MACs of the distances between [..., P, M] and [..., R, M], or among the rows of [P, M]."""
    if name == "_pdist_forward":
        return int(args[0].numel() * (args[0].shape[0] - 1) // 2)
    return int(args[0].numel() * args[1].shape[-2])


def groups(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Tensor, int]]:
    """Returns (operand, MACs) of each group of a grouped product of a [T, K] with b [groups, K, N], split at `offs`."""
    a, b = args[0], args[1]
    more = (kwargs.get("offs"), *args[2:])
    ends = next((t for t in more if isinstance(t, Tensor) and t.dtype == torch.int32 and t.dim() == 1), None)
    if ends is None or a.dim() != 2 or b.dim() != 3:
        return [(b, int(a.numel()) * int(b.shape[-1]))]
    sizes = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
    return [(b[i], int(size) * b.shape[-2] * b.shape[-1]) for i, size in enumerate(sizes) if size]
