"""Each control changes what it should and keeps what it should keep."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruning
from pruning import plan
from pruning.deciding import decision
from pruning.deciding.ablations import ABLATIONS, changes
from pruning.events import Event, Tell
from pruning.masks import Masks
from pruning.plan import PlanError
from pruning.seeds import generator

BATCH = (torch.randn(12, 20, generator=torch.Generator().manual_seed(0)), torch.arange(4).repeat(3))


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.BatchNorm1d(30), nn.Linear(30, 25), nn.Linear(25, 4))


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


def counts(masks: Masks) -> list[int]:
    return [int(mask.sum()) for mask in masks.values()]


def same(one: Masks, two: Masks) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_registry_has_the_names_of_the_plan() -> None:
    assert set(ABLATIONS) == set(plan.choices(plan.Ablation))


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "grasp", "synflow"])
@pytest.mark.parametrize("ablation", ["shuffle", "random-counts"])
def test_layer_counts_stay_and_the_masks_change(criterion: str, ablation: str) -> None:
    for seed in range(5):
        plain = decide(network(seed), criterion, 0.2, batch=BATCH, tell=quiet)
        changed = decide(network(seed), criterion, 0.2, batch=BATCH, ablation=ablation, tell=quiet)
        assert counts(changed) == counts(plain)
        assert not same(changed, plain)


def test_shuffling_across_keeps_the_total_alone() -> None:
    model = network()
    with torch.no_grad():
        model[3].weight.mul_(1e-3)
    plain = decide(model, "magnitude", 0.2, tell=quiet)
    changed = decide(model, "magnitude", 0.2, ablation="shuffle-across")
    assert changed.kept == plain.kept
    assert counts(plain)[1] == 0
    assert counts(changed)[1] == pytest.approx(0.2 * 750, abs=50)


@pytest.mark.parametrize("ablation", [name for name, entry in ABLATIONS.items() if entry.changes == "masks"])
def test_changes_of_masks_revive_nothing_and_follow_the_generator(ablation: str) -> None:
    model = network()
    present = pruning.prune(model, 0.5)
    changed = [
        decide(model, "magnitude", 0.2, masks=present, ablation=ablation, generator=generator(seed, "a"))
        for seed in (0, 0, 1)
    ]
    for masks in changed:
        assert masks.kept == round(0.2 * masks.total)
        assert all(bool((present[name] | ~mask).all()) for name, mask in masks.items())
    assert same(changed[0], changed[1])
    assert not same(changed[0], changed[2])


def test_every_place_is_as_likely_in_a_shuffle() -> None:
    masks = Masks({"w": torch.tensor([True] * 5 + [False] * 15)})
    stream = generator(0, "shuffle")
    hits = sum(changes.shuffle(masks, None, stream)["w"].double() for _ in range(4000)) / 4000
    assert isinstance(hits, Tensor)
    assert float((hits - 0.25).abs().max()) < 0.03  # 4 standard deviations


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "grasp"])
def test_inverting_keeps_the_lowest(criterion: str) -> None:
    model = network()
    scores = torch.cat([s.flatten() for s in pruning.score(model, criterion, BATCH).values()])
    masks = decide(model, criterion, 0.3, batch=BATCH, ablation="invert")
    mask = torch.cat([m.flatten() for m in masks.values()])
    assert scores[mask].max() <= scores[~mask].min()
    assert masks.kept == round(0.3 * masks.total)


def test_inverting_synflow_inverts_every_round() -> None:
    model = network()
    whole = decide(model, "synflow", 0.9, batch=BATCH, ablation="invert", rounds=3, tell=quiet)
    masks: Masks | None = None
    for n in (1, 2, 3):
        masked = deepcopy(model)
        if masks is not None:
            masks.apply(masked)
        scores = changes.inverted(pruning.score(masked, "synflow", BATCH))
        masks = pruning.allocate(scores, 0.9 ** (n / 3), masks=masks)
    assert masks is not None
    assert same(masks, whole)


def test_grasp_inverted_is_the_inversion_of_grasp() -> None:
    model = network().double()
    one = decide(model, "grasp", 0.3, batch=BATCH, ablation="invert")
    assert same(one, decide(model, "grasp-inverted", 0.3, batch=BATCH))


def test_a_normal_initialization_takes_away_the_layers_variances() -> None:
    """Magnitudes of N(0, 1) in every layer: layer densities are equal up to chance, and the weights are the
    model's own."""
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(100)
    before = deepcopy(model.state_dict())
    plain = decide(model, "magnitude", 0.2, tell=quiet)
    changed = decide(model, "magnitude", 0.2, ablation="normal-init")
    assert counts(plain)[0] == pytest.approx(290, abs=0)
    assert counts(changed)[0] == pytest.approx(0.2 * 600, abs=35)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    pruned = deepcopy(model)
    masks = pruning.prune(pruned, 0.8, ablation="normal-init")
    assert torch.equal(pruned[0].weight[masks["0.weight"]], model[0].weight[masks["0.weight"]])


def test_reinit_keeps_the_masks_and_nothing_else() -> None:
    model = network(0)
    model[2].running_mean.fill_(3.0)
    expected_masks = decide(model, "snip", 0.2, batch=BATCH, tell=quiet)
    rebuild = partial(network, 1)
    masks = pruning.prune(model, 0.8, "snip", batch=BATCH, ablation="reinit", rebuild=rebuild, tell=quiet)
    assert same(masks, expected_masks)
    fresh = network(1)
    for name, value in model.state_dict().items():
        expected = fresh.state_dict()[name]
        mask = masks.get(name)
        assert torch.equal(value, expected if mask is None else expected.where(mask, 0))
    assert not masks.violations(model.state_dict())


def test_reinit_needs_a_network_of_the_same_kind() -> None:
    with pytest.raises(PlanError, match="rebuild go together"):
        pruning.prune(network(), 0.5, ablation="reinit")
    with pytest.raises(PlanError, match="rebuild go together"):
        pruning.prune(network(), 0.5, rebuild=network)
