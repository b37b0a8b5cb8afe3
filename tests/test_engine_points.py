"""Pruning at any point of training, lottery-ticket rewinding to a step, recalibration, budgets over cycles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning import engine
from pruning.engine import fitting
from pruning.masks import Masks
from pruning.plan import Iterate, PlanError, Prune, Retrain, Train, canonical, make
from pruning.record import checkpoint, runs

pytest.importorskip("sklearn", reason="the digits need scikit-learn (extra demo)")

TRAIN = Train(
    model="resnet20", model_options={"width": 2}, data="digits", epochs=2, batch_size=650, lr=0.1,
    keep_epochs=(0, 1), keep_steps=(1, 3),
)  # fmt: skip


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return engine.advance(TRAIN, None, tmp_path_factory.mktemp("points") / "runs", device="cpu")


def prune(dense: Path, **settings: object) -> Path:
    return engine.advance(make(Prune, {"sparsity": 0.5, **settings}), dense, dense.parent, device="cpu")


def test_steps_and_epochs_are_kept(dense: Path) -> None:
    assert runs.kept_epochs(dense) == [0, 1]
    assert runs.kept_steps(dense) == [0, 1, 3]
    epoch, _ = checkpoint.load(dense / runs.epoch_file(1))
    before, _ = checkpoint.load(dense / runs.step_file(1))
    after, _ = checkpoint.load(dense / runs.step_file(3))  # 2 steps make an epoch
    assert not torch.equal(epoch["fc.weight"], before["fc.weight"])
    assert not torch.equal(epoch["fc.weight"], after["fc.weight"])


@pytest.mark.parametrize(
    ("settings", "file"),
    [({"at_epoch": 0}, runs.epoch_file(0)), ({"at_epoch": 1}, runs.epoch_file(1)), ({"at_step": 3}, runs.step_file(3))],
)
def test_the_state_of_that_point_is_pruned(dense: Path, settings: dict[str, int], file: str) -> None:
    run = prune(dense, **settings)
    masks = Masks.load(run / runs.MASKS)
    assert masks.kept == round(0.5 * masks.total)
    pruned, source = checkpoint.load(run / runs.WEIGHTS)[0], checkpoint.load(dense / file)[0]
    for name, value in pruned.items():
        assert torch.equal(value, source[name].where(masks[name], 0) if name in masks else source[name]), name
    momenta = checkpoint.load(run / runs.MOMENTA)[0]
    assert momenta.keys() == {name for name in source if ":" in name}
    full = engine.advance(Retrain(technique="lr-rewind", schedule="allr"), run, run.parent, device="cpu")
    assert [record["epoch"] for record in runs.log(full)] == [1, 2]  # the whole schedule again


def test_points_that_were_not_kept_are_named(dense: Path) -> None:
    with pytest.raises(
        PlanError, match=r"at step 2 of .* not kept \(kept: 0, 1, 3\); train with --set keep_steps=\[2\]"
    ):
        prune(dense, at_step=2)
    with pytest.raises(PlanError, match=r"at epoch 2 of .* not kept \(kept: 0, 1\)"):
        prune(dense, at_epoch=2)
    with pytest.raises(PlanError, match="is not a training"):
        prune(prune(dense), sparsity=0.75, at_epoch=0)
    with pytest.raises(PlanError, match="keep_steps 5 lies beyond the last step, 4"):
        engine.advance(TRAIN.model_copy(update={"keep_steps": (5,)}), None, dense.parent, device="cpu")


def test_lottery_ticket_rewinding_runs_from_that_step_to_the_end(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []
    fit = fitting.loop.fit

    def watched(network, data, optimizer, lr, **rest):  # type: ignore[no-untyped-def]
        start = {k: v.clone() for k, v in network.state_dict().items()}
        source, masks = checkpoint.load(dense / runs.step_file(3))[0], rest["method"].masks
        assert all(torch.equal(v, source[k].where(masks[k], 0) if k in masks else source[k]) for k, v in start.items())
        fit(network, data, optimizer, lambda step: seen.append((step, lr(step))) or lr(step), **rest)

    monkeypatch.setattr(fitting.loop, "fit", watched)
    run = engine.advance(
        Retrain(technique="weight-rewind", rewind_step=3), prune(dense, sparsity=0.6), dense.parent, device="cpu"
    )
    rate = engine.dense_schedule(TRAIN, 2)
    assert seen == [(3, rate(3))]
    assert runs.read_summary(run)["epochs"] == 1
    with pytest.raises(PlanError, match="rewind_step 4 leaves nothing|was not kept"):
        engine.advance(Retrain(technique="weight-rewind", rewind_step=4), prune(dense), dense.parent, device="cpu")
    with pytest.raises(PlanError, match="not used by technique 'lr-rewind'"):
        make(Retrain, {"technique": "lr-rewind", "rewind_step": 3})


def test_lottery_ticket_rewinding_over_the_whole_schedule(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frankle et al. (2021, section 3): the weights of a step, the schedule and the order of the data from their beginning."""
    seen: list[tuple[int, float]] = []
    fit = fitting.loop.fit

    def watched(network, data, optimizer, lr, **rest):  # type: ignore[no-untyped-def]
        source, masks = checkpoint.load(dense / runs.step_file(3))[0], rest["method"].masks
        for name, value in network.state_dict().items():
            assert torch.equal(value, source[name].where(masks[name], 0) if name in masks else source[name]), name
        fit(network, data, optimizer, lambda step: seen.append((step, lr(step))) or lr(step), **rest)

    monkeypatch.setattr(fitting.loop, "fit", watched)
    whole = Retrain(technique="weight-rewind", rewind_step=3, schedule="original", optimizer_state="reset")
    run = engine.advance(whole, prune(dense, sparsity=0.7), dense.parent, device="cpu")
    rate = engine.dense_schedule(TRAIN, 2)
    assert seen == [(step, rate(step)) for step in range(4)]
    assert runs.read_summary(run)["epochs"] == 2
    masks, neurons = Masks.load(run / runs.MASKS), runs.read_summary(run)["neurons"]
    for name, (dead, total) in neurons["dead"].items():
        assert (dead, total) == (int((~masks[name].flatten(1).any(1)).sum()), len(masks[name])), name
    assert neurons["by_sparsity"][0] == sum(total for _, total in neurons["dead"].values())
    assert neurons["by_sparsity"][100] == sum(dead for dead, _ in neurons["dead"].values())
    row = engine.preview([TRAIN, Prune(sparsity=0.7), whole], None, dense.parent, device="cpu")[-1]
    assert (row["epochs"], row["steps"]) == (2, 4)
    at_end = prune(
        dense.parent / dense.name, at_step=3, sparsity=0.7
    )  # as every other method at that step, but for the masks
    same = engine.preview([Retrain(technique="fine-tune", schedule="original")], at_end, dense.parent, device="cpu")[0]
    assert (same["epochs"], same["steps"]) == (2, 4)
    for wrong in ({"schedule": "ft"}, {"epochs": 1}, {"schedule": "original", "epochs": 1}):
        with pytest.raises(
            PlanError, match="or with schedule 'original' the whole of it: leave out (epochs|schedule 'ft')"
        ):
            make(Retrain, {"technique": "weight-rewind", "rewind_step": 3, **wrong})


def test_the_digests_of_plans_without_the_whole_schedule_are_as_they_were() -> None:
    from_step = Retrain(technique="weight-rewind", rewind_step=3)
    assert canonical(from_step) == '{"phase":"retrain","rewind_step":3,"technique":"weight-rewind"}'
    assert canonical(Prune(sparsity=0.5, criterion="snip")) == '{"criterion":"snip","phase":"prune","sparsity":0.5}'


def test_preview_counts_the_steps_that_are_left(dense: Path) -> None:
    phases = [TRAIN, Prune(sparsity=0.5), Retrain(technique="weight-rewind", rewind_step=3)]
    rows = engine.preview(phases, None, dense.parent, device="cpu")
    assert [(row["epochs"], row["steps"]) for row in rows] == [(2, 4), (0, 0), (1, 1)]
    with pytest.raises(PlanError, match=r"starts from step 2, which the training does not keep"):
        engine.preview([*phases[:2], Retrain(technique="weight-rewind", rewind_step=2)], None, dense.parent)


def test_recalibration_renews_running_statistics_and_nothing_else(dense: Path) -> None:
    plain = checkpoint.load(prune(dense, sparsity=0.9) / runs.WEIGHTS)[0]
    renewed = checkpoint.load(prune(dense, sparsity=0.9, recalibrate="one-pass") / runs.WEIGHTS)[0]
    changed = {name for name in plain if not torch.equal(plain[name], renewed[name])}
    statistics = {
        name for name in plain if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert changed == statistics
    assert statistics


def test_the_impact_is_of_the_last_pruning_alone(dense: Path) -> None:
    """Equation 1 of Zimmer et al. (2023) from the weights in the files; 1 of 2 steps of a linear schedule is half its start."""
    again = engine.advance(Retrain(epochs=1), prune(dense), dense.parent, device="cpu")
    second = engine.advance(Prune(sparsity=0.8), again, dense.parent, device="cpu")
    before, after = (checkpoint.load(run / runs.WEIGHTS)[0] for run in (again, second))
    names = [name for name, _ in engine.load_model(again).named_parameters()]
    gone, whole = (
        torch.cat([tensors[name].double().flatten() for name in names]).norm().item()
        for tensors in ({name: before[name] - after[name] for name in names}, before)
    )
    left, was = (Masks.load(run / runs.MASKS).kept for run in (second, again))
    d1 = gone / whole / (1 - left / was) ** 0.5
    assert 0 < d1 < 1
    retrain = Retrain(technique="fine-tune", schedule="allr-d1", epochs=1)
    run = engine.advance(retrain, second, dense.parent, device="cpu")
    assert runs.log(run)[-1]["lr"] == pytest.approx(0.1 * d1 / 2, rel=1e-6)


def test_a_budget_is_shared_out_and_the_optimizer_is_fresh_once() -> None:
    ladder = Iterate(sparsity=0.9, cycles=3, budget=11, fresh_optimizer=True, retrain={"schedule": "allr"})
    retrainings = [phase for phase in ladder.phases() if isinstance(phase, Retrain)]
    assert [phase.epochs for phase in retrainings] == [3, 3, 5]
    assert [phase.optimizer_state for phase in retrainings] == ["reset", "keep", "keep"]
    with pytest.raises(PlanError, match="a budget of 2 epochs does not go round 3 cycles"):
        Iterate(sparsity=0.9, cycles=3, budget=2).phases()
