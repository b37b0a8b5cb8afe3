"""Inputs, labels and outputs of any form: one tensor, or tuples and dicts of such."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def each(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Returns the value with every tensor replaced by what the function makes of it; lists become tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: each(function, inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(each(function, inner) for inner in value)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """Yields the tensors of a value, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from tensors(inner)


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


def of_shape(shape: Any, make: Callable[..., Tensor] = torch.zeros, number: int = 1) -> Any:
    """Returns a batch of `number` examples of what :func:`shapes` gave, also after a way through JSON."""
    if isinstance(shape, Mapping):
        return {key: of_shape(inner, make, number) for key, inner in shape.items()}
    if all(isinstance(size, int) for size in shape):
        return make(number, *shape)
    return tuple(of_shape(inner, make, number) for inner in shape)
