"""Optimizers by name: each makes a torch optimizer of parameter groups and a training's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruning.plan import Train
from pruning.registry import Function, Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Optimizer(Function):
    """A function (parameter groups, training's settings) -> optimizer; `options` are the settings that it alone uses."""

    options: tuple[str, ...] = ()


def sgd(groups: Groups, train: Train) -> torch.optim.Optimizer:
    """Returns MaskedSGD."""
    import torch

    from pruning.training.optim import MaskedSGD

    # torch's fused SGD on the CPU leaves 16-bit weights as they are (2.13), so it is for float32 alone.
    fused = all(p.dtype == torch.float32 for group in groups for p in group["params"])
    return MaskedSGD(
        groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov, weight_decay=train.weight_decay,
        fused=fused or None,
    )  # fmt: skip


def adam(groups: Groups, train: Train) -> torch.optim.Optimizer:
    """Returns torch's Adam, momentum its first coefficient."""
    import torch

    return torch.optim.Adam(groups, lr=train.lr, betas=(train.momentum, 0.999), weight_decay=train.weight_decay)


def adamw(groups: Groups, train: Train) -> torch.optim.Optimizer:
    """Returns torch's AdamW, momentum its first coefficient."""
    import torch

    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.momentum, 0.999), weight_decay=train.weight_decay)


OPTIMIZERS = Registry(
    "optimizer",
    Optimizer,
    {
        "sgd": Optimizer(
            sgd, summary="stochastic gradient descent with momentum, fused with the masks", options=("nesterov",)
        ),
        "adam": Optimizer(adam, summary="Adam (Kingma & Ba 2015); pruned entries are held at 0 after every step"),
        "adamw": Optimizer(adamw, summary="Adam with decoupled weight decay (Loshchilov & Hutter 2019), held likewise"),
    },
)


def make_optimizer(network: nn.Module, train: Train, extra: Groups) -> torch.optim.Optimizer:
    """Returns the optimizer of the settings; `extra` holds a method's own parameter groups."""
    ours = {id(p) for group in extra for p in group["params"]}
    weights = [p for p in network.parameters() if id(p) not in ours]
    if train.decay_norm_and_bias:
        groups: Groups = [{"params": weights}]
    else:
        groups = [
            {"params": [p for p in weights if p.ndim > 1]},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
    made: torch.optim.Optimizer = OPTIMIZERS.find(train.optimizer).load()([*groups, *extra], train)
    return made
