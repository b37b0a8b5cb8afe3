"""Arguments from Python: what a number may be given as, and what is refused by name before any work."""

from __future__ import annotations

import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pruning
from pruning.plan import PlanError
from pruning.training import schedules


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    "sparsity", [0.5, Decimal("0.5"), Fraction(1, 2), np.float32(0.5), np.array(0.5), torch.tensor(0.5)]
)
def test_a_sparsity_may_be_any_number(sparsity: Any) -> None:
    assert pruning.prune(network(), sparsity).kept == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": "0.5"}, r"sparsity must lie in \[0, 1\], not '0.5'"),
        ({"sparsity": True}, r"sparsity must lie in \[0, 1\], not True"),
        ({"sparsity": 90}, r"not 90 \(did you mean 0.9\?\)"),
        ({"sparsity": float("nan")}, "sparsity must lie in"),
        ({"sparsity": None}, "sparsity must lie in"),
        ({"criterion": None}, "criterion must be a name, not None"),
        ({"allocation": 3}, "allocation must be a name, not 3"),
        (
            {"criterion": "synflow", "batch": torch.ones(1, 6), "rounds": 1.5},
            "rounds must be at least 1, a whole number, not 1.5",
        ),
        ({"criterion": "synflow", "batch": torch.ones(1, 6), "rounds": True}, "rounds must be at least 1"),
        ({"min_per_layer": -1}, "min_per_layer must be at least 0"),
        ({"exclude": 5}, "exclude, each pattern, must be a name, not 5"),
        (
            {"criterion": "snip", "batch": (np.ones((2, 6)), np.zeros(2))},
            "batch must hold tensors, .* not numpy.ndarray",
        ),
    ],
)
def test_what_is_no_such_argument_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PlanError, match=message):
        pruning.prune(model, **{"sparsity": 0.5, **options})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("given", [network().state_dict(), list(network().parameters()), "resnet20", None])
def test_what_is_no_model_is_refused(given: Any) -> None:
    with pytest.raises(PlanError, match=r"model must be a torch.nn.Module, not "):
        pruning.prune(given, 0.5)
    with pytest.raises(PlanError, match=r"model must be a torch.nn.Module, not "):
        pruning.score(given)


def test_masks_of_weights_that_the_optimizer_does_not_hold_are_refused() -> None:
    model = network()
    masks = pruning.prune(model, 0.5)
    half = pruning.MaskedSGD(model[0].parameters(), lr=0.1)
    with pytest.raises(PlanError, match=r"the optimizer does not hold '2.weight', which has a mask"):
        half.set_masks(model, masks)
    with pytest.raises(PlanError, match=r"the optimizer does not hold '2.weight'"):
        pruning.enforce(torch.optim.Adam(model[0].parameters()), model, masks)
    model[2].weight.requires_grad_(False)
    half.set_masks(model, masks)


def test_a_loaded_state_without_masks_warns_where_pruned_weights_would_move() -> None:
    model = network()
    masks = pruning.prune(model, 0.5)
    optimizer = pruning.MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.set_masks(model, masks)
    model(torch.randn(3, 6)).sum().backward()
    optimizer.step()
    other = pruning.MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.warns(UserWarning, match=r"of 80 weights and their momenta are 0, as if pruned, and no masks are set"):
        other.load_state_dict(optimizer.state_dict())
    other.set_masks(model, masks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(optimizer.state_dict())


def test_an_impact_above_one_is_refused() -> None:
    with pytest.raises(PlanError, match="a number from 0 to 1, not 2.0"):
        schedules.retraining("allr", lambda step: 0.1, total_steps=10, steps=5, impact=2.0)
