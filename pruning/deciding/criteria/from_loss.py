"""Criteria from the gradient of the loss on a sample: SNIP and GraSP, as Frankle et al. (2021, section 3) state them.

The loss is the mean over the whole sample: cross-entropy, or that of the task. Micro-batches add up their shares of the
mean, so the gradient g, and the product Hg with the Hessian H of that same mean, are those of the sample however it is
split. In train mode the mean itself depends on the split, as BatchNorm normalizes each micro-batch by its own statistics;
g is that of the whole mean, and Hg the sum over micro-batches of H_i g.

Deviations from the original implementations: SNIP scores weights only, no biases, and the network is not reinitialized;
GraSP scores the model's own linear layers (the original draws new ones), in eval mode unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruning import trees
from pruning.deciding.criteria.base import Sample, as_it_was, run, stand_ins, working_dtype
from pruning.plan import PlanError

TEMPERATURE = 200.0  # of GraSP: the logits are divided by it (Wang et al. 2020, their code)


def snip(model: nn.Module, weights: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Returns |g w|, g = dL/dw (Lee et al. 2019, equation 5, unnormalized; Frankle et al. 2021, section 3)."""
    state, leaves = _leaves(model, weights)
    with as_it_was(model, sample):
        gradient = _gradient(model, state, leaves, sample, 1.0, "snip")
    return {name: (g * w).detach().abs() for name, w, g in zip(weights, leaves, gradient, strict=True)}


def grasp(model: nn.Module, weights: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Returns w Hg: Wang et al. (2020, equation 8) remove the weights with the highest -w Hg."""
    return _gradient_flow(model, weights, sample)


def grasp_inverted(model: nn.Module, weights: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Returns -w Hg: what the original removes is kept (Frankle et al. 2021, section 5)."""
    return {name: -score for name, score in _gradient_flow(model, weights, sample).items()}


def grasp_magnitude(model: nn.Module, weights: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Returns |w Hg| (Frankle et al. 2021, section 5)."""
    return {name: score.abs() for name, score in _gradient_flow(model, weights, sample).items()}


def _gradient_flow(model: nn.Module, weights: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Returns w Hg with g and H of the loss at temperature 200."""
    state, leaves = _leaves(model, weights)
    product = [torch.zeros_like(w) for w in leaves]
    with as_it_was(model, sample) as again:
        whole = _gradient(model, state, leaves, sample, TEMPERATURE, "grasp") if len(sample.slices()) > 1 else None
        again()  # the same dropout in both passes, which are of one loss
        for inputs, labels in sample.parts(leaves[0]):
            loss = _loss(model, state, inputs, labels, sample, TEMPERATURE, "grasp")
            own = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
            target = whole or [g.detach() for g in own]  # of one part, its own: the same dropout, one pass less
            flow = sum(((a * b).sum() for a, b in zip(own, target, strict=True)), start=loss.new_zeros(()))
            if flow.requires_grad:
                for total, part in zip(product, _grad(flow, leaves), strict=True):
                    total += part
    return {name: w.detach() * hg for name, w, hg in zip(weights, leaves, product, strict=True)}


def _leaves(model: nn.Module, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    state = stand_ins(model, weights, working_dtype(weights))
    return state, [state[name].requires_grad_() for name in weights]


def _gradient(
    model: nn.Module, state: dict[str, Tensor], leaves: list[Tensor], sample: Sample, temperature: float, criterion: str
) -> list[Tensor]:
    total = [torch.zeros_like(w) for w in leaves]
    for inputs, labels in sample.parts(leaves[0]):
        loss = _loss(model, state, inputs, labels, sample, temperature, criterion)
        for whole, part in zip(total, _grad(loss, leaves), strict=True):
            whole += part
    return total


def _grad(value: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, leaves, materialize_grads=True)


def _loss(
    model: nn.Module,
    state: dict[str, Tensor],
    inputs: Any,
    labels: Any,
    sample: Sample,
    temperature: float,
    criterion: str,
) -> Tensor:
    """Returns the micro-batch's share of the sample's mean loss."""
    output = trees.each(
        lambda t: t / temperature if t.is_floating_point() else t, run(model, state, inputs, criterion, sample.task)
    )
    if not any(t.requires_grad for t in trees.tensors(output)):
        raise PlanError(f"criterion '{criterion}': the model's output depends on no prunable weight")
    try:
        return sample.task.loss_sum(output, labels) / sample.task.count(sample.labels)
    except (RuntimeError, ValueError, IndexError) as error:
        outputs, found = ([list(t.shape) for t in trees.tensors(value)] for value in (output, labels))
        what = f"outputs {', '.join(map(str, outputs))} and labels {', '.join(map(str, found))}"
        raise PlanError(f"criterion '{criterion}' finds no loss of {what}: {error}") from error
