"""The torch library `prune`: how an op is defined, and the checks that ops share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_LIBRARY = torch.library.Library("prune", "DEF")


def define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the op after defining it: its schema, its reference as the kernel for every device, its fake kernel."""
    name = schema.split("(", 1)[0]
    _LIBRARY.define(schema, tags=(torch.Tag.needs_fixed_stride_order,))
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"prune::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.prune, name)


def explained(op: Callable[..., Any], check: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the op with refusals that name the culprit: kernels refuse tersely, `check` takes the same arguments."""

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(*arguments)
        try:
            return op(*arguments)
        except RuntimeError:
            check(*arguments)
            raise

    return call


def one_device(tensors: Sequence[torch.Tensor]) -> torch.device:
    """Returns the device that all tensors live on; refuses several, by name."""
    devices = {t.device for t in tensors}
    if len(devices) > 1:
        raise ValueError(f"all tensors must live on one device, not on {' and '.join(sorted(map(str, devices)))}")
    return devices.pop() if devices else torch.device("cpu")


def check_dtypes(name: str, tensors: Sequence[torch.Tensor], allowed: Sequence[torch.dtype]) -> None:
    """Refuses a tensor whose dtype is not among `allowed`, by its place in the list."""
    for i, t in enumerate(tensors):
        if t.dtype not in allowed:
            raise ValueError(f"{name}[{i}] is {_short(t.dtype)}; allowed are {', '.join(map(_short, allowed))}")


def check_shapes(name: str, tensors: Sequence[torch.Tensor], like: Sequence[torch.Tensor], of: str) -> None:
    """Refuses lists of unlike lengths and tensors of unlike shapes."""
    if len(tensors) != len(like):
        raise ValueError(f"{name} has {len(tensors)} tensors for {len(like)} {of}")
    for i, (t, l) in enumerate(zip(tensors, like, strict=True)):
        if t.shape != l.shape:
            raise ValueError(f"{name}[{i}] has shape {tuple(t.shape)}; {of}[{i}] has {tuple(l.shape)}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
