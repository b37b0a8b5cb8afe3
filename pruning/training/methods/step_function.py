"""The gradient that DST puts in place of that of its selection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Threshold(torch.autograd.Function):
    """w step(|w| - t), where step(u) is 1 for u > 0 and its derivative is :func:`step_derivative`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor) -> Tensor:
        """Returns the selected weights; `threshold` has the weight's dimensions, 1 where it is shared."""
        ctx.save_for_backward(weight, threshold)
        return weight.where(weight.abs() > threshold, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of w, g (step(u) + |w| step'(u)), and of t, minus the sum of g w step'(u) over its weights."""
        weight, threshold = ctx.saved_tensors
        gradient = gradients[0]
        u = weight.abs() - threshold
        through = gradient * weight * step_derivative(u)
        shared = [d for d in range(u.ndim) if threshold.shape[d] == 1]
        return gradient.where(u > 0, 0.0) + through * weight.sign(), -through.sum(shared, keepdim=True)


def step_derivative(u: Tensor) -> Tensor:
    """Returns what stands for the derivative of the step function: 2 - 4|u| up to .4, .4 up to 1, 0 beyond (Liu et al. 2020)."""
    size = u.abs()
    return torch.where(size <= 0.4, 2 - 4 * size, torch.where(size <= 1, 0.4, 0.0))
