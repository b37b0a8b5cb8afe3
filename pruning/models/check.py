"""Tries a network before anything is trained: one clear error in place of a failure in the first batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pruning.models.shapes import Shape
from pruning.plan import PlanError


def check(model: nn.Module, shape: Shape, classes: int, what: str = "the model") -> None:
    """Returns nothing; raises PlanError unless the model maps two blank images to [2, classes], in both modes.

    A model that takes no images is tried on zeros as indices, which is what the first layer of a text's model takes.
    Lazy layers take their sizes from this; buffers, such as running statistics, are left as they were.
    """
    size = "x".join(map(str, shape))
    x = torch.zeros(2, *shape)
    try:
        out = _run(model.eval(), x)
    except Exception as error:
        x = x.long()
        try:
            out = _run(model, x)
        except Exception:
            reason = " ".join(str(error).split())
            raise PlanError(f"{what} does not run on images of {size}: {type(error).__name__}: {reason}") from error
    _check_output(out, classes, what)
    with buffers_kept(model):
        try:
            out = _run(model.train(), x)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise PlanError(f"{what} does not train on images of {size}: {type(error).__name__}: {reason}") from error
    _check_output(out, classes, f"{what}, in training mode,")


def _run(model: nn.Module, x: torch.Tensor) -> Any:
    with torch.no_grad():
        return model(x)


def _check_output(out: Any, classes: int, what: str) -> None:
    if not isinstance(out, torch.Tensor):
        raise PlanError(f"{what} must return a tensor, not {type(out).__name__}")
    if out.shape != (2, classes):
        raise PlanError(f"{what} must return [2, {classes}] for two images, {classes} classes, not {list(out.shape)}")


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Runs its body; the model's buffers, such as running statistics, are as before after it."""
    kept = [(m, name, b, b.clone()) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            buffer.copy_(value)
            setattr(module, name, buffer)
