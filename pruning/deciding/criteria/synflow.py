"""SynFlow: how much of the flow of ones through the network of absolute weights passes each weight (Tanaka et al.
2020).

Deviations from their implementation: always in float64, which deeper networks need (Frankle et al. 2021, section
3), and signs come back by never having been changed. As there, every parameter and buffer is made absolute, biases
and BatchNorm statistics included: before training running means are 0, so this shifts the scores only of a network
that was trained.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pruning import trees
from pruning.deciding.criteria.base import Sample, as_it_was, run, stand_ins
from pruning.plan import PlanError


def synflow(model: nn.Module, weights: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Returns |w| dR/d|w| in float64, R the sum of outputs on an input of ones [1, ...] (Tanaka et al. 2020, eq. 3)."""
    assert sample.inputs is not None
    if wrong := [t.dtype for t in trees.tensors(sample.inputs) if not t.is_floating_point()]:
        raise PlanError(f"criterion 'synflow' feeds ones: it needs floating inputs, not {wrong[0]}")
    state = stand_ins(model, weights, torch.float64)
    state = {name: tensor.abs() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    leaves = [state[name].requires_grad_() for name in weights]
    device = leaves[0].device
    ones = trees.each(lambda t: torch.ones_like(t[:1], dtype=torch.float64, device=device), sample.inputs)
    with as_it_was(model, replace(sample, mode="eval")):
        outputs = list(trees.tensors(run(model, state, ones, "synflow", sample.task)))
        flow = torch.stack([t.sum() for t in outputs]).sum() if len(outputs) > 1 else outputs[0].sum()
        if not flow.requires_grad:
            raise PlanError("criterion 'synflow': the model's output depends on no prunable weight")
        gradient = torch.autograd.grad(flow, leaves, materialize_grads=True)
    return {name: (w * g).detach().abs() for name, w, g in zip(weights, leaves, gradient, strict=True)}
