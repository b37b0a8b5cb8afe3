"""Lengths in whole epochs, in parts of one, and in steps: what they are called, how far they go, and how they resume."""

from __future__ import annotations

import csv
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


@pytest.mark.parametrize("per_epoch", [1, 2, 5, 6, 7, 21, 35, 351])
@pytest.mark.parametrize(
    ("original", "rest"), [(3, 0.25), (160, 0.1), (160, 0.5), (2.5, 1), (2.5, 0.5), (0.5, 0.25), (7, 6.7)]
)
def test_a_part_of_a_training_and_where_it_starts_make_the_whole(original: Any, rest: Any, per_epoch: int) -> None:
    retrain = plan.make(plan.Retrain, {"technique": "weight-rewind", "epochs": rest})
    epoch, step = techniques.start(retrain, original)
    assert step is None
    assert epoch is not None
    begin = lengths.point(epoch, original, per_epoch)
    ahead = lengths.in_steps(original, per_epoch) - lengths.in_steps(rest, per_epoch)
    assert begin == ahead or rest * per_epoch < 0.5  # where a part shorter than a step is one step


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
    assert techniques.start(phase, "100 steps") == (None, 70)


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
    assert (
        Path("report/results.md").read_text().count("| 50.00 | 2.00 | 0.5 | 1 | 2 |") == 2
    )  # 3 steps are half an epoch


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
    assert "keep_epochs 2 in epochs of 6 steps: beyond the last step, 3, of a training of 3 steps" in late.err
    assert not Path("runs").exists()
    rates = prune(
        "schedule", "llr", "--epochs", "0.5", "--original-epochs", "20", "--steps-per-epoch", "10", "--json"
    ).json
    assert rates["schedules"][0]["values"][-1]["step"] == 4


def test_the_digits_recipe_retrained_for_parts_of_an_epoch(prune: Prune, workspace: Path) -> None:
    dense = prune("train", "digits", "--epochs", "1", "--set", "keep_steps=[10]", "--device", "cpu").run
    pruned = prune("prune", dense, "--sparsity", "0.9", "--device", "cpu").run
    quarter = prune("retrain", pruned, "--epochs", "0.25", "--device", "cpu").run
    assert [(line["epoch"], line["step"]) for line in runs.log(quarter)] == [(1, 5)]  # of 21
    three = prune("retrain", pruned, "--epochs", "3steps", "--device", "cpu").run
    assert [line["step"] for line in runs.log(three)] == [3]
    assert runs.read_summary(three)["epochs"] == 3 / 21
    assert runs.read_summary(three)["images_per_second"] == pytest.approx(3 * 64 / runs.log(three)[0]["train_seconds"])
    rewound = ("retrain", pruned, "--technique", "weight-rewind", "--device", "cpu")
    assert [line["step"] for line in runs.log(prune(*rewound, "--epochs", "0.5").run)] == [11]  # 10 and 11 are all
    refused = prune(*rewound, "--epochs", "0.25").err
    assert "starts from epoch 0.75 (step 16)" in refused
    assert "kept: epochs 0, 1; steps 0, 10" in refused


def test_states_of_parts_of_an_epoch_are_kept_by_their_steps(prune: Prune, workspace: Path) -> None:
    kept = prune("train", *TINY, "--epochs", "3", "--set", "batch_size=10", "--set", "keep_epochs=[0.01,1,2.7]").run
    names = sorted(path.name for path in kept.glob("*-*.safetensors"))
    assert names == ["epoch-0001.safetensors", "step-0000016.safetensors"]  # of 18; after 0.01 epochs none is done
    assert (kept / "init.safetensors").is_file()
    part, step = (
        prune("prune", kept, "--sparsity", "0.5", *at, "--device", "cpu").run
        for at in (("--at-epoch", "2.7"), ("--at-step", "16"))
    )
    assert (part / runs.WEIGHTS).read_bytes() == (step / runs.WEIGHTS).read_bytes()


def _csv(path: str) -> list[dict[str, str]]:
    with Path(path).open() as lines:
        return list(csv.DictReader(lines))


STUDY = """
seeds = [0]
[[phases]]
phase = "train"
model = "nets.py:tiny"
data = "sets.py:blobs"
epochs = {train}
batch_size = 10
[[phases]]
phase = "prune"
sparsity = 0.5
[[phases]]
phase = "retrain"
technique = "$technique"
[axes]
technique = ["weight-rewind", "lr-rewind"]
"retrain.epochs" = {retrain}
"""


@pytest.mark.parametrize(
    ("train", "retrain", "total", "shown"),
    [
        ("2", "[0.25, 1]", 4.5, ["0.25", "1", "0.25", "1"]),
        ('"12 steps"', '["2 steps", "6 steps"]', 5, ["0.333333", "1", "0.333333", "1"]),
    ],
)
def test_a_study_of_lengths(
    prune: Prune, workspace: Path, train: str, retrain: str, total: float, shown: list[str]
) -> None:
    Path("parts.toml").write_text(STUDY.format(train=train, retrain=retrain))
    before = prune("sweep", "parts.toml", "--dry-run", "--json", "--trust-code").json
    assert before["epochs_left"] == total  # a phase in steps counts as one
    assert prune("sweep", "parts.toml", "--jobs", "1", "--device", "cpu", "--trust-code").code == 0
    done = sorted(runs.log(run)[-1]["step"] for run in Path("runs").glob("*-retrain-*"))
    assert done == [2, 2, 6, 6]
    after = prune("sweep", "parts.toml", "--dry-run", "--json", "--trust-code").json
    assert (after["done"], after["epochs_left"]) == (6, 0)
    assert prune("report", "runs", "--out", "report").code == 0
    assert [row["retrain_epochs"] for row in _csv("report/runs.csv")] == shown


def test_plans_side_by_side_count_steps_as_epochs(prune: Prune, workspace: Path) -> None:
    Path("short.toml").write_text(
        """
        [[phases]]
        phase = "train"
        model = "nets.py:tiny"
        data = "sets.py:blobs"
        epochs = 2
        batch_size = 10
        [[phases]]
        phase = "prune"
        sparsity = 0.5
        [[phases]]
        phase = "retrain"
        epochs = "3 steps"
        """
    )
    (row,) = prune("compare", "short.toml", "--device", "cpu", "--json", "--trust-code").json["rows"]
    assert row["epochs"] == 2.5
