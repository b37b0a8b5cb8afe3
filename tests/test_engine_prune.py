"""Prune phases through the engine: every criterion and control by its name, as the command line asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning.cli.main import app
from typer.testing import CliRunner

from pruning import engine, plan
from pruning.masks import Masks
from pruning.plan import PlanError, Prune, Train
from pruning.record import checkpoint, runs
from pruning.training.schedules import RETRAIN_SCHEDULES

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


def prune_by_command(dense: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["prune", str(dense), "--json", *words])


def test_layer_rates_from_a_file(dense: Path, tmp_path: Path) -> None:
    names = list(masks_of(dense, Prune(sparsity=0.5)))
    toml, json_file = tmp_path / "rates.toml", tmp_path / "rates.json"
    toml.write_text(f"{names[0]} = 0.25\n'hidden.1*' = 1\n[fc]\nweight = 0.5\n")
    json_file.write_text(json.dumps({names[0]: 0.25, "fc.weight": 0.5}))
    totals = [mask.numel() for mask in masks_of(dense, Prune(sparsity=0.5)).values()]
    keep = [round(0.25 * totals[0]), totals[1], round(0.5 * totals[2])]
    for file in (toml, json_file):
        result = prune_by_command(dense, "--sparsity", str(1 - sum(keep) / sum(totals)), "--layer-rates", str(file))
        assert result.exit_code == 0, result.stderr
        masks = Masks.load(Path(json.loads(result.stdout)["run"]) / runs.MASKS)
        assert [int(mask.sum()) for mask in masks.values()] == keep


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layer-rates", "absent.toml"], "layer rates 'absent.toml' cannot be read"),
        (["--allocation", "rates"], "allocation 'rates' and layer_rates go together"),
        (["--rounds", "3"], "rounds is not used by criterion 'magnitude'"),
        (
            ["--criterion", "synflow", "--set", "samples_per_class=3"],
            "samples_per_class is not used by criterion 'synflow'",
        ),
        (["--criterion", "snp"], "did you mean 'snip'"),
        (["--ablation", "shufle"], "did you mean 'shuffle'"),
        (["--min-per-layer", "100"], "min_per_layer 100 needs"),
    ],
)
def test_refusals_by_command(dense: Path, words: list[str], says: str) -> None:
    before = sorted(dense.parent.iterdir())
    result = prune_by_command(dense, "--sparsity", "0.9", *words)
    assert result.exit_code == 1
    assert says in " ".join(result.stderr.split())
    assert sorted(dense.parent.iterdir()) == before


@pytest.mark.parametrize("text", ["a = 'much'", "a = true", "", "a = "])
def test_damaged_layer_rates(dense: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "rates.toml"
    file.write_text(text)
    result = prune_by_command(dense, "--sparsity", "0.9", "--layer-rates", str(file))
    assert result.exit_code == 1
    assert f"layer rates '{file}'" in " ".join(result.stderr.split())


def test_every_retraining_schedule(dense: Path) -> None:
    pruned = engine.advance(Prune(sparsity=0.8), dense, dense.parent, device="cpu")
    for name in RETRAIN_SCHEDULES:
        own = {"schedule_lr": 0.05} if RETRAIN_SCHEDULES[name].tuned else {}
        phase = plan.make(plan.Retrain, {"epochs": 2, "schedule": name, "technique": "fine-tune", **own})
        run = engine.advance(phase, pruned, dense.parent, device="cpu")
        assert runs.is_done(run)
        rates = [record["lr"] for record in runs.log(run)]
        assert all(0 <= rate <= 0.1 + 1e-12 for rate in rates)
