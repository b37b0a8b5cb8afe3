"""Decisions end to end: exact density of every combination, rounds, hard masks, what is told, what is refused."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruning
from pruning.deciding import decision
from pruning.deciding.allocation import ALLOCATIONS
from pruning.deciding.criteria import CRITERIA
from pruning.events import Event, Progress, Tell, Warned
from pruning.masks import Masks
from pruning.plan import PlanError

INPUTS = torch.randn(9, 2, 6, 6, generator=torch.Generator().manual_seed(0))
BATCH = (INPUTS, torch.arange(3).repeat(3))
SIZE = 72 + 288 + 640 + 240  # weights of the network below


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
            self.conv2 = nn.Conv2d(4, 8, 3, padding=1)
            self.fc1 = nn.Linear(8, 80)
            self.fc2 = nn.Linear(80, 3)

    def forward(self, x: Tensor) -> Tensor:  # [n, 2, H, W] -> [n, 3]
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))


def decide(
    model: nn.Module,
    criterion: str,
    density: float,
    *,
    masks: Masks | None = None,
    batch: decision.Batch | None = None,
    generator: torch.Generator | None = None,
    tell: Tell = decision.warn,
    **asked: Any,
) -> Masks:
    """Returns the masks of one decision."""
    settings = decision.Decision(criterion, 1 - density, **asked)
    return settings.decide(model, masks=masks, batch=batch, generator=generator, tell=tell)


def quiet(event: Event) -> None:
    """Listens to nothing."""


def kept(masks: Masks) -> list[int]:
    return [int(mask.sum()) for mask in masks.values()]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_density_is_exact_for_every_combination(criterion: str, allocation: str) -> None:
    for seed in range(20):
        sparsity = (0.0, 0.3, 0.5, 0.613, 0.8)[seed % 5]
        model = Net(seed)
        options: dict[str, Any] = {"rates": {"*": 1 - sparsity}} if allocation == "rates" else {}
        if criterion == "synflow":
            options["rounds"] = 5
        masks = pruning.prune(model, sparsity, criterion, allocation, BATCH, seed=seed, tell=quiet, **options)
        assert masks.kept == round((1 - sparsity) * SIZE)
        assert list(masks) == ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]
        assert not masks.violations(model.state_dict())
        assert sum(int((p != 0).sum()) for name, p in model.named_parameters() if name in masks) <= masks.kept


# --- rounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_rounds_score_anew_along_the_exponential_ladder(criterion: str) -> None:
    """Three rounds by the one function are three decisions by hand, at densities d^(1/3), d^(2/3), d."""
    model = Net()
    together = decide(model, criterion, 0.1, batch=BATCH, rounds=3, tell=quiet)
    masks: Masks | None = None
    for density in (0.1 ** (1 / 3), 0.1 ** (2 / 3), 0.1):
        masked = deepcopy(model)
        if masks is not None:
            masks.apply(masked)
        scores = pruning.score(masked, criterion, BATCH)
        masks = pruning.allocate(scores, density, masks=masks)
        assert masks.kept == round(density * SIZE)
    assert masks is not None
    assert all(torch.equal(masks[name], together[name]) for name in masks)
    once = decide(model, criterion, 0.1, batch=BATCH, rounds=1, tell=quiet)
    assert any(not torch.equal(masks[name], once[name]) for name in masks)


def test_synflow_takes_a_hundred_rounds_and_tells_of_them() -> None:
    events: list[Event] = []
    model = Net()
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
    masks = decide(model, "synflow", 0.01, batch=INPUTS, tell=events.append)
    assert events[-1] == Progress(100, 100, "rounds")
    assert all(isinstance(event, Progress) for event in events)
    assert masks.kept == round(0.01 * SIZE)
    assert min(kept(masks)) >= 1  # rounds are what keeps it from emptying a layer
    assert min(kept(decide(model, "synflow", 0.01, batch=INPUTS, rounds=1, tell=quiet))) == 0


def test_a_network_that_is_cut_through_goes_on_by_the_last_scores() -> None:
    """Inverted SynFlow keeps what carries least: the flow ends, and the ranking of the round before holds."""
    events: list[Event] = []
    masks = decide(Net(), "synflow", 0.1, batch=INPUTS, ablation="invert", tell=events.append)
    assert masks.kept == round(0.1 * SIZE)
    told = [event.text for event in events if isinstance(event, Warned)]
    assert "'synflow' gives every weight the score 0 after round" in told[0]


def test_rounds_go_on_from_the_present_density() -> None:
    model = Net()
    present = pruning.prune(model, 0.5)
    seen: list[float] = []
    original = decision.allocate

    def watch(scores: Any, density: Any, *args: Any, **options: Any) -> Masks:
        seen.append(density)
        return original(scores, density, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decision, "allocate", watch)
        decide(model, "synflow", 0.05, batch=INPUTS, masks=present, rounds=2, tell=quiet)
    assert seen == pytest.approx([0.5 * 0.1**0.5, 0.05])


def test_rounds_with_given_rates_step_each_layer() -> None:
    rates = {"conv1*": 1.0, "conv2*": 0.25, "fc1*": 0.1, "fc2*": 0.5}
    keep = 72 + 72 + 64 + 120
    masks = pruning.prune(Net(), 1 - keep / SIZE, "synflow", "rates", INPUTS, rates=rates, rounds=4)
    assert kept(masks) == [72, 72, 64, 120]


# --- hard masks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
def test_twenty_cycles_are_hard_and_exact(criterion: str) -> None:
    model, masks = Net(), None
    for cycle in range(1, 21):
        before, goal = masks, 1 - 0.9**cycle
        rounds = {"rounds": 2} if criterion == "synflow" else {}
        masks = pruning.prune(model, goal, criterion, "lamp", BATCH, masks=before, seed=cycle, tell=quiet, **rounds)
        assert masks.kept == round((1 - goal) * SIZE)
        if before is not None:
            assert all(bool((before[name] | ~mask).all()) for name, mask in masks.items())


def test_masks_of_other_tensors_are_carried_along() -> None:
    model = Net()
    present = Masks(
        {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1},
        {"conv1.bias": torch.tensor([True, False, True, True])},
    )
    masks = pruning.prune(model, 0.5, masks=present)
    assert torch.equal(masks.extra["conv1.bias"], present.extra["conv1.bias"])
    assert model.conv1.bias[1].item() == 0


def test_excluded_layers_do_not_count() -> None:
    model = Net()
    before = model.fc2.weight.detach().clone()
    masks = pruning.prune(model, 0.5, exclude=["fc2"])
    assert masks.total == SIZE - 240
    assert masks.kept == 500
    assert torch.equal(model.fc2.weight, before)


def test_masks_of_other_layers_are_refused() -> None:
    model = Net()
    present = pruning.prune(model, 0.5)
    with pytest.raises(PlanError, match=r"differ in 'fc2.weight': exclude and include the same every time"):
        pruning.prune(model, 0.6, exclude=["fc2"], masks=present)
    other = Masks({**present, "fc1.weight": torch.ones(8, 80, dtype=torch.bool)})
    with pytest.raises(PlanError, match=r"other shapes than the weights in 'fc1.weight'"):
        pruning.score(model, masks=other)


def test_decide_touches_nothing_and_prune_writes_plus_zero() -> None:
    model = Net()
    before = deepcopy(model.state_dict())
    masks = decide(model, "magnitude", 0.3, tell=quiet)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    masks.apply(model)
    for name, mask in masks.items():
        pruned = model.get_parameter(name)[~mask]
        assert not bool(pruned.any() | pruned.signbit().any())
        assert torch.equal(model.get_parameter(name)[mask], before[name][mask])


def test_the_same_seed_prunes_the_same() -> None:
    one, two, three = (pruning.prune(Net(), 0.5, "random", seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], three[name]) for name in one)


# --- what is told -------------------------------------------------------------------------------------------


def test_layer_collapse_is_told_by_name() -> None:
    model = Net()
    with torch.no_grad():
        model.conv2.weight.mul_(1e-6)
    with pytest.warns(UserWarning, match=r"layer collapse: no weight is kept in 'conv2.weight'"):
        pruning.prune(deepcopy(model), 0.8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert min(kept(pruning.prune(model, 0.8, min_per_layer=3))) == 3


def test_a_choice_among_zeros_is_told() -> None:
    model = Net()
    with torch.no_grad():
        model.fc1.weight[:, 4:] = 0
    events: list[Event] = []
    whole = Masks.full(dict(pruning.masks.prunable(model)))
    masks = pruning.prune(model, 0.1, "magnitude", "uniform", masks=whole, tell=events.append)
    assert masks.kept == round(0.9 * SIZE)
    assert [type(event) for event in events] == [Warned]
    assert "'magnitude': of the weights with score 0 the first are kept, others not, in 'fc1.weight'" in str(events[0])


@pytest.mark.parametrize(
    ("sparsity", "options", "says"),
    [
        (1.5, {}, r"sparsity must lie in \[0, 1\], not 1.5"),
        (-0.1, {}, "sparsity must lie in"),
        (float("nan"), {}, "sparsity must lie in"),
        (0.5, {"criterion": "magnitud"}, "did you mean 'magnitude'"),
        (0.5, {"allocation": "earth"}, "allocation 'earth' is unknown"),
        (0.5, {"ablation": "inverted"}, "did you mean 'invert'"),
        (0.5, {"rounds": 3}, "rounds is not used by criterion 'magnitude'"),
        (0.5, {"criterion": "synflow", "batch": INPUTS, "rounds": 0}, "rounds must be at least 1"),
        (0.5, {"ablation": "reinit"}, "rebuild go together"),
        (0.5, {"exclude": ["conv3"]}, "exclude 'conv3' fits no prunable weight"),
    ],
)
def test_bad_input_leaves_the_model_alone(sparsity: float, options: dict[str, Any], says: str) -> None:
    model = Net()
    before = deepcopy(model.state_dict())
    with pytest.raises(PlanError, match=says):
        pruning.prune(model, sparsity, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_present_sparsity_is_a_floor() -> None:
    model = Net()
    present = pruning.prune(model, 0.8, tell=quiet)
    with pytest.raises(PlanError, match="only 248 are left"):
        pruning.prune(model, 0.5, masks=present)
