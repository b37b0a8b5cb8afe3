"""Prune phases through the engine: every criterion and control by its name, as the command line asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning import checkpoint, engine, plan, runs
from pruning.masks import Masks
from pruning.plan import PlanError, Prune, Train
from pruning.schedules import RETRAIN_SCHEDULES

pytest.importorskip("sklearn", reason="the digits need scikit-learn (extra demo)")

TRAIN = Train(model="lenet-300-100", model_options={"width": 0.1}, data="digits", epochs=1, batch_size=256)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return engine.advance(TRAIN, None, tmp_path_factory.mktemp("runs"), device="cpu")


def masks_of(dense: Path, phase: Prune) -> Masks:
    run = engine.advance(phase, dense, dense.parent, device="cpu")
    masks = Masks.load(run / runs.MASKS)
    assert masks.kept == round((1 - phase.sparsity) * masks.total)
    assert not masks.violations(checkpoint.load(run / runs.WEIGHTS)[0])
    return masks


def differ(one: Masks, two: Masks) -> bool:
    return any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("criterion", plan.choices(plan.Criterion))
def test_every_criterion(dense: Path, criterion: str) -> None:
    chosen = masks_of(dense, plan.make(Prune, {"sparsity": 0.8, "criterion": criterion}))
    assert criterion == "magnitude" or differ(chosen, masks_of(dense, Prune(sparsity=0.8)))


@pytest.mark.parametrize("ablation", plan.choices(plan.Ablation))
def test_every_ablation_changes_masks_or_weights_never_both(dense: Path, ablation: str) -> None:
    plain = engine.advance(Prune(sparsity=0.5), dense, dense.parent, device="cpu")
    phase = plan.make(Prune, {"sparsity": 0.5, "ablation": ablation})
    masks = masks_of(dense, phase)
    assert differ(masks, Masks.load(plain / runs.MASKS)) == (ablation != "reinit")
    run = engine.advance(phase, dense, dense.parent, device="cpu")
    before, after = (checkpoint.load(folder / runs.WEIGHTS)[0] for folder in (dense, run))
    same = all(torch.equal(after[name][mask], before[name][mask]) for name, mask in masks.items())
    assert same == (ablation != "reinit")


def test_the_settings_of_the_scores_arrive(dense: Path) -> None:
    base = masks_of(dense, Prune(sparsity=0.8, criterion="snip"))
    for settings in ({"samples_per_class": 3}, {"rounds": 4}):
        assert differ(base, masks_of(dense, plan.make(Prune, {"sparsity": 0.8, "criterion": "snip", **settings})))
    with pytest.raises(PlanError, match="class 0 has"):
        masks_of(dense, Prune(sparsity=0.8, criterion="snip", samples_per_class=1000))


def test_allocations_arrive(dense: Path) -> None:
    shares = {"0.weight": 0.1}
    for allocation in plan.choices(plan.Allocation):
        settings = {"layer_rates": {"*": 0.2}} if allocation == "rates" else {}
        masks = masks_of(dense, plan.make(Prune, {"sparsity": 0.8, "allocation": allocation, **settings}))
        shares[allocation] = sum(masks[next(iter(masks))].flatten().tolist())
    assert len(set(shares.values())) >= 5  # uniform and equal rates agree


def test_every_retraining_schedule(dense: Path) -> None:
    pruned = engine.advance(Prune(sparsity=0.8), dense, dense.parent, device="cpu")
    for name in RETRAIN_SCHEDULES:
        own = {"schedule_lr": 0.05} if name in plan.TUNED_SCHEDULES else {}
        phase = plan.make(plan.Retrain, {"epochs": 2, "schedule": name, "technique": "fine-tune", **own})
        run = engine.advance(phase, pruned, dense.parent, device="cpu")
        assert runs.is_done(run)
        rates = [record["lr"] for record in runs.log(run)]
        assert all(0 <= rate <= 0.1 + 1e-12 for rate in rates)
