"""Lengths in whole epochs, in parts of one, and in steps: what they are called, how far they go, and how they resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Prune

from pruning import engine, plan
from pruning.engine import fitting
from pruning.plan import PlanError, lengths, techniques
from pruning.record import checkpoint, runs
from pruning.training import loop

TRAIN = {"model": "lenet-300-100", "data": "digits"}


@pytest.mark.parametrize(
    ("given", "length"),
    [
        (40, 40), (40.0, 40), (0.25, 0.25), ("500 steps", "500 steps"),
        ("500steps", "500 steps"), (" 1 step ", "1 steps"),
    ],
)  # fmt: skip
def test_a_length_has_one_form(given: Any, length: Any) -> None:
    found = plan.make(plan.Retrain, {"epochs": given}).epochs
    assert (found, type(found)) == (length, type(length))


def test_whole_epochs_keep_their_digests() -> None:
    one, other = (plan.make(plan.Train, {**TRAIN, "epochs": epochs}) for epochs in (10, 10.0))
    assert plan.canonical(one) == plan.canonical(other)
    assert '"epochs":10,' in plan.canonical(one)


@pytest.mark.parametrize(
    "bad",
    [
        0,
        -1,
        0.0,
        math.nan,
        math.inf,
        True,
        "0 steps",
        "500 images",
        "",
        [3],
        "-2",
        "40",
        1e20,
        10**20,
        "9" * 20 + " steps",
    ],
)
def test_what_is_no_length_is_refused_by_name(bad: Any) -> None:
    with pytest.raises(PlanError, match=r"epochs takes a number"):
        plan.make(plan.Retrain, {"epochs": bad})


@pytest.mark.parametrize(
    ("length", "per_epoch", "steps"), [(2, 11, 22), (0.25, 100, 25), (0.1, 3, 1), (0.001, 100, 1), ("7 steps", 100, 7)]
)
def test_lengths_in_steps(length: Any, per_epoch: int, steps: int) -> None:
    assert lengths.in_steps(length, per_epoch) == steps


def test_lengths_scale_and_are_shared_out() -> None:
    assert [lengths.times(value, 0.1) for value in (40, 4, 0.5, "500 steps")] == [4, 1, 0.05, "50 steps"]
    short = plan.with_epochs(plan.make(plan.Train, {**TRAIN, "epochs": 100, "milestones": [50, 75]}), 0.5)
    assert (short.epochs, short.milestones) == (0.5, (0.25, 0.375))
    for budget, shares in ((10, [3, 3, 4]), (1.5, [0.5, 0.5, 0.5]), ("10 steps", ["3 steps", "3 steps", "4 steps"])):
        iterate = plan.make(plan.Iterate, {"sparsity": 0.9, "cycles": 3, "budget": budget})
        assert [phase.epochs for phase in iterate.phases() if isinstance(phase, plan.Retrain)] == shares
    with pytest.raises(PlanError, match="a budget of 2 steps does not go round 3 cycles"):
        plan.make(plan.Iterate, {"sparsity": 0.9, "cycles": 3, "budget": "2 steps"}).phases()


def test_rewinding_by_parts_of_an_epoch() -> None:
    phase = plan.make(plan.Retrain, {"technique": "weight-rewind", "epochs": 0.25})
    assert techniques.start_epoch(phase, 160) == 159.75
    phase = plan.make(plan.Retrain, {"technique": "weight-rewind", "epochs": "30 steps"})
    assert techniques.start(phase, 10, 20) == (None, 170)
    assert techniques.start(phase, 10, 10) == (7, None)
    with pytest.raises(PlanError, match="depends on the data"):
        techniques.start_epoch(phase, 10)


def test_retrainings_of_a_part_of_an_epoch_and_of_steps(prune: Prune, workspace: Path) -> None:
    train = ("train", *TINY, "--epochs", "3", "--set", "batch_size=10", "--set", "keep_epochs=[2.5]")
    dense = prune(*train).run  # 6 steps an epoch
    pruned = prune("prune", dense, "--sparsity", "0.5", "--device", "cpu").run
    quarter = prune("retrain", pruned, "--epochs", "0.5", "--device", "cpu").run
    three = prune("retrain", pruned, "--epochs", "3 steps", "--device", "cpu").run
    assert [record["step"] for record in runs.log(quarter)] == [3]
    assert runs.read_summary(quarter)["epochs"] == runs.read_summary(three)["epochs"] == 0.5
    assert (quarter / "weights.safetensors").read_bytes() == (three / "weights.safetensors").read_bytes()
    rewound = prune("retrain", pruned, "--technique", "weight-rewind", "--epochs", "0.5", "--device", "cpu").run
    assert runs.read_summary(rewound)["epochs"] == 0.5
    by_steps = prune("retrain", pruned, "--technique", "weight-rewind", "--epochs", "3 steps", "--device", "cpu").run
    assert (rewound / "weights.safetensors").read_bytes() == (by_steps / "weights.safetensors").read_bytes()
    refused = prune("retrain", pruned, "--technique", "weight-rewind", "--epochs", "0.25", "--device", "cpu")
    assert "weight-rewind for 0.25 epochs starts from epoch 2.75" in refused.err
    assert "keep_epochs=[2.75]" in refused.err
    rows = prune("retrain", pruned, "--epochs", "1.5", "--device", "cpu", "--dry-run", "--json").json["phases"]
    assert (rows[0]["epochs"], rows[0]["steps"]) == (1.5, 9)
    assert prune("report", "runs", "--out", "report").code == 0


def test_the_first_part_of_a_training_is_that_part(prune: Prune, workspace: Path) -> None:
    train = ("train", *TINY, "--set", "batch_size=10", "--set", "schedule=constant")
    whole = prune(*train, "--epochs", "2", "--set", "keep_steps=[9]").run
    part = prune(*train, "--epochs", "1.5").run
    kept, ended = (checkpoint.load(path)[0] for path in (whole / runs.step_file(9), part / runs.WEIGHTS))
    assert all(bool((kept[name] == value).all()) for name, value in ended.items())
    steps = prune(*train, "--epochs", "9 steps").run
    assert (steps / runs.WEIGHTS).read_bytes() == (part / runs.WEIGHTS).read_bytes()
    assert runs.read_summary(steps)["epochs"] == 1.5


def test_a_training_that_ends_in_mid_epoch_resumes_to_the_same_bits(
    prune: Prune, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = plan.make(
        plan.Train,
        {"model": "nets.py:tiny", "data": "sets.py:blobs", "epochs": 3.5, "batch_size": 10, "optimizer": "adam"},
    )
    whole = engine.advance(phase, None, Path("whole"), device="cpu")
    monkeypatch.setattr(fitting, "SAVE_EVERY", 0.0)
    original = loop.evaluate
    calls = 0

    def failing(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(loop, "evaluate", failing)
    with pytest.raises(KeyboardInterrupt):
        engine.advance(phase, None, Path("torn"), device="cpu")
    monkeypatch.setattr(loop, "evaluate", original)
    torn = engine.advance(phase, None, Path("torn"), device="cpu")
    assert (torn / runs.WEIGHTS).read_bytes() == (whole / runs.WEIGHTS).read_bytes()
    assert [record["step"] for record in runs.log(torn)] == [6, 12, 18, 21]


def test_the_command_line_refuses_bad_lengths_before_any_work(prune: Prune, workspace: Path) -> None:
    for length in ("0", "none of it", "500 images"):
        refused = prune("train", *TINY, "--epochs", length)
        assert refused.code == 1
        assert "epochs takes a number of epochs above 0" in refused.err
    late = prune("train", *TINY, "--epochs", "3 steps", "--set", "keep_epochs=[2]", "--set", "batch_size=10")
    assert late.code == 1
    assert "epoch 2 of keep_epochs or milestones lies beyond the last step, 3" in late.err
    assert not Path("runs").exists()
    rates = prune(
        "schedule", "llr", "--epochs", "0.5", "--original-epochs", "20", "--steps-per-epoch", "10", "--json"
    ).json
    assert rates["schedules"][0]["values"][-1]["step"] == 4
