"""The built-in recipes, without their data: each is a whole plan over a network of the size that its paper states."""

from __future__ import annotations

import functools
import json
import math

import pytest

from pruning import models
from pruning.engine.lookahead import check_kept
from pruning.masks import prunable
from pruning.plan import Plan, Prune, Retrain, canonical, load_plan, recipe_names, techniques

SHAPES = {
    "digits": ((1, 8, 8), 10), "cifar10": ((3, 32, 32), 10), "cifar100": ((3, 32, 32), 100),
    "folder": ((3, 224, 224), 1000),
}  # fmt: skip
WEIGHTS = {  # prunable weights by network, options and classes
    ("lenet-5", "{}", 10): 130_500,
    ("lenet-300-100", "{}", 10): 50_200,
    ("resnet20", '{"shortcut": "B"}', 10): 270_896,
    ("resnet20", '{"shortcut": "TF"}', 10): 271_152,
    ("resnet56", "{}", 10): 848_944,
    ("resnet56", '{"shortcut": "TF"}', 10): 851_760,
    ("resnet110", '{"shortcut": "TF"}', 10): 1_722_672,
    ("vgg16", '{"bias": true, "last_pool": "avg"}', 10): 14_715_584,
    ("wrn-28-10", '{"dropout": 0.3, "form": "meliketoy"}', 100): 36_518_832,
    ("torchvision:resnet50", "{}", 1000): 25_502_912,
}


@functools.cache
def weights(model: str, options: str, data: str) -> int:
    """Returns the network's prunable weights."""
    shape, classes = SHAPES[data]
    network = models.build(model, shape, classes, options=json.loads(options), seed=0)
    return sum(weight.numel() for weight in prunable(network).values())


@pytest.mark.parametrize("name", recipe_names())
def test_network_is_of_the_stated_size(name: str) -> None:
    train = load_plan(name).train
    if train.model.startswith("torchvision:"):
        pytest.importorskip("torchvision", reason="the network is torchvision's (extra vision)")
    options = json.dumps(train.model_options, sort_keys=True)
    assert weights(train.model, options, train.data) == WEIGHTS[train.model, options, SHAPES[train.data][1]]


@pytest.mark.parametrize("name", recipe_names())
def test_a_plan_keeps_what_it_rewinds_to(name: str) -> None:
    plan = load_plan(name)
    check_kept(plan.phases, plan.train, 100)
    assert plan.summary.isascii()
    assert plan.citation


def last_prune(plan: Plan) -> Prune:
    return [phase for phase in plan.phases if isinstance(phase, Prune)][-1]


def total(plan: Plan) -> int:
    """Returns the epochs of all retrainings."""
    return sum(techniques.epochs(phase, plan.train.epochs) for phase in plan.phases if isinstance(phase, Retrain))


@pytest.mark.parametrize(("name", "cycles"), [("resnet20", 10), ("resnet56", 17), ("resnet110", 10)])
def test_algorithm_1_prunes_a_fifth_and_retrains_for_the_whole_training(name: str, cycles: int) -> None:
    plan = load_plan(f"renda-{name}-cifar10-algorithm1")
    goals = [phase.sparsity for phase in plan.phases if isinstance(phase, Prune)]
    assert goals == pytest.approx([1 - 0.8**j for j in range(1, cycles + 1)], abs=1e-12)
    assert total(plan) == 182 * cycles
    assert {phase.technique for phase in plan.phases if isinstance(phase, Retrain)} == {"lr-rewind"}


@pytest.mark.parametrize(("net", "rounds"), [("resnet20", 6), ("vgg16", 12)])
@pytest.mark.parametrize(
    "method", ["random", "magnitude", "snip", "grasp", "synflow", "magnitude-after-training", "ltr"]
)
def test_frankle_prunes_to_the_highest_matching_sparsity(net: str, rounds: int, method: str) -> None:
    plan = load_plan(f"frankle-{net}-cifar10-{method}")
    train, prune = plan.train, last_prune(plan)
    assert prune.sparsity == pytest.approx(1 - 0.8**rounds, abs=1e-12)
    assert (train.epochs, train.milestones, train.lr, train.weight_decay) == (160, (80, 120), 0.1, 1e-4)
    assert (train.nesterov, train.weight_init, train.norm_init, train.split) == (
        False, "he-normal-fan-in", "uniform", "none",
    )  # fmt: skip
    late = method in ("magnitude-after-training", "ltr")
    assert prune.at_epoch == (None if late else 0)
    assert prune.criterion == ("magnitude" if late else method)
    assert total(plan) == 160


def test_budgeted_pruning_spends_what_it_says() -> None:
    for name, train, retrain in (
        ("digits-bimp", 20, 20),
        ("zimmer-resnet56-cifar10-bimp", 100, 100),
        ("zimmer-resnet56-cifar10-imp", 200, 30),
        ("zimmer-wrn28-10-cifar100-imp", 200, 10),
    ):
        plan = load_plan(name)
        assert (plan.train.epochs, total(plan)) == (train, retrain)
        assert next(phase.optimizer_state for phase in plan.phases if isinstance(phase, Retrain)) == "reset"
        assert math.isclose(last_prune(plan).sparsity, 0.95 if name == "digits-bimp" else 0.9)


def test_no_two_recipes_are_the_same_plan() -> None:
    plans = {name: tuple(canonical(phase) for phase in load_plan(name).phases) for name in recipe_names()}
    seen: dict[tuple[str, ...], str] = {}
    for name, phases in plans.items():
        assert phases not in seen, (name, seen.get(phases))
        seen[phases] = name
