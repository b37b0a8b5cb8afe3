"""Inputs, labels and outputs of any form: one tensor, or tuples and dicts of such."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor


def each(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Returns the value with every tensor replaced by what the function makes of it; lists become tuples.

    Named tuples and classes of dicts stay what they are: who wrote a model may read its output by attributes.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        made = copy.copy(value) if isinstance(value, MutableMapping) else dict(value)
        for key, inner in value.items():
            made[key] = each(function, inner)
        return made
    if isinstance(value, (tuple, list)):
        parts = (each(function, inner) for inner in value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def leaves(value: Any) -> Iterator[Any]:
    """Yields what a value holds, in order: what is neither a tuple, nor a list, nor a dict."""
    if isinstance(value, (Mapping, tuple, list)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(inner)
    else:
        yield value


def tensors(value: Any) -> Iterator[Tensor]:
    """Yields the tensors of a value, in order."""
    return (leaf for leaf in leaves(value) if isinstance(leaf, Tensor))


def add(first: Any, second: Any) -> Any:
    """Returns the sum of two values of one form, tensor by tensor; None is the sum of nothing."""
    if first is None:
        return second
    if isinstance(first, Mapping):
        return {key: add(inner, second[key]) for key, inner in first.items()}
    if isinstance(first, (tuple, list)):
        return tuple(add(one, other) for one, other in zip(first, second, strict=True))
    return first + second


def examples(value: Any) -> int:
    """Returns how many examples a batch holds: the first dimension of its first tensor."""
    return len(next(tensors(value)))


def apply(model: Callable[..., Any], x: Any) -> Any:
    """Returns the model's output on x: a tuple is its arguments, a dict its keyword arguments."""
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, (tuple, list)) else model(x)


def shapes(x: Any) -> Any:
    """Returns x with every tensor [n, ...] replaced by its shape without the batch."""
    return each(lambda t: tuple(t.shape[1:]), x)


def sizes(value: Any) -> Any:
    """Returns the value with every tensor replaced by its whole shape, as a list."""
    return each(lambda t: list(t.shape), value)


def distance(first: Any, second: Any) -> float:
    """Returns the largest difference of two values of one form, 0 where they hold nothing."""
    pairs = zip(tensors(first), tensors(second), strict=True)
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)


def types(x: Any) -> Any:
    """Returns x with every tensor replaced by its dtype's name, `float32`."""
    return each(lambda t: str(t.dtype).removeprefix("torch."), x)


def blank(shape: Any, kind: Any = None, number: int = 1) -> Any:
    """Returns `number` examples of zeros of what :func:`shapes` and :func:`types` gave, also after a way through JSON.

    Where `kind` says nothing they are float32.
    """
    if isinstance(shape, Mapping):
        kinds = kind if isinstance(kind, Mapping) else {}
        return {key: blank(inner, kinds.get(key), number) for key, inner in shape.items()}
    if all(isinstance(size, int) for size in shape):
        return torch.zeros(number, *shape, dtype=getattr(torch, kind) if isinstance(kind, str) else torch.float32)
    several = kind if isinstance(kind, (tuple, list)) and len(kind) == len(shape) else [None] * len(shape)
    return tuple(blank(inner, one, number) for inner, one in zip(shape, several, strict=True))
