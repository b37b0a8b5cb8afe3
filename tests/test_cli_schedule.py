"""`prune schedule`: the numbers against hand-computed ones, where the original training comes from, the figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Prune

from pruning import engine
from pruning.engine.impact import norm_lost
from pruning.record import runs


def rates(outcome: object, name: str) -> list[float]:
    (found,) = [entry for entry in outcome.json["schedules"] if entry["name"] == name]  # type: ignore[attr-defined]
    return [value["lr"] for value in found["values"]]


STEPS = ("--step", 0, "--step", 599, "--step", 600, "--step", 3599, "--step", 3600, "--step", 5999)


def test_figure_1_of_zimmer_in_numbers(prune: Prune) -> None:
    """Their ResNet-56: 200 epochs, 0.1, 0.01 from epoch 90 on, 0.001 from 180 on; 60 epochs of retraining."""
    told = prune("schedule", "ft", "lrw", "slr", "llr", "allr", "--epochs", 60, "--impact", 0.5, *STEPS, "--json")
    assert told.json["original"] == {"epochs": 200, "lr": 0.1, "schedule": "stepped"}
    assert (told.json["epochs"], told.json["steps_per_epoch"], told.json["plot"]) == (60, 100, None)
    assert rates(told, "ft") == pytest.approx([0.001] * 6)
    assert rates(told, "lrw") == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.01, 0.001])
    assert rates(told, "slr")[0] == 0
    assert rates(told, "slr")[2:] == pytest.approx([0.1, 0.01, 0.01, 0.001])  # (3599 - 600) 20000/5400 >= 9000
    assert rates(told, "llr")[2:] == pytest.approx([0.1, 0.1 * (1 - 2999 / 5400), 0.1 * 2400 / 5400, 0.1 / 5400])
    assert rates(told, "allr")[2:] == pytest.approx([rate / 2 for rate in rates(told, "llr")[2:]])


def test_lines_for_programs_when_no_terminal_reads(prune: Prune) -> None:
    told = prune("schedule", "ft", "llr", "--original-epochs", 4, "--steps-per-epoch", 5, "--epochs", 2, "--quiet")
    lines = [line.split("\t") for line in told.out.splitlines()]
    assert lines[0] == ["step", "ft", "llr"]
    assert [line[0] for line in lines[1:]] == [str(step) for step in range(10)]
    assert [float(x) for x in lines[1][1:]] == [0.001, 0.0]


def test_original_from_a_recipe(prune: Prune) -> None:
    told = prune("schedule", "lrw", "--from", "renda-resnet20-cifar10", "--epochs", 60, "--step", 1399, "--step", 1400,
                 "--json")  # fmt: skip
    assert told.json["original"]["epochs"] == 182  # 60 of them: drops at 136 - 122
    assert rates(told, "lrw") == pytest.approx([0.01, 0.001])


def test_original_from_a_run_with_its_own_impact(prune: Prune, history: Path) -> None:
    pruned = runs.history(history)[1]
    told = prune("schedule", "allr", "linear", "--schedule-lr", 0.3, "--from", history, "--epochs", 4, "--step", 1,
                 "--step", 11, "--json")  # fmt: skip
    impact = norm_lost(pruned, engine.load_model(pruned))
    assert 0 < impact < 1
    assert told.json["steps_per_epoch"] == 3
    assert told.json["impact"] == impact
    assert rates(told, "allr") == pytest.approx([0.1, 0.1 / 11])  # 4 of 4 epochs: d2 is 1
    assert rates(told, "linear") == pytest.approx([0.3 * 11 / 12, 0.3 / 12])
    alone = prune("schedule", "allr-d1", "--from", history, "--step", 1, "--json")
    assert rates(alone, "allr-d1") == pytest.approx([0.1 * impact])


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_figure(prune: Prune, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    file = tmp_path / f"schedules.{ending}"
    assert prune("schedule", "ft", "slr", "llr", "--epochs", 60, "--plot", file).run == file
    if ending == "png":
        assert file.read_bytes().startswith(b"\x89PNG")
        return
    text = file.read_text()
    assert re.findall(r">(ft|slr|llr|original|learning rate)</text>", text).count("learning rate") == 2
    assert "llr: from 0 at 0 to" in text  # in words


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("lr",), "retraining schedule 'lr' is unknown"),
        (("allr",), "'allr' needs --impact"),
        (("accallr", "--from", "RUN"), "'accallr' needs --impact"),
        (("llr", "--impact", "0.5"), "--impact is not used by llr, only by allr, allr-d1, accallr"),
        (("allr", "--impact", "2"), "impact must lie in"),
        (("llr", "--schedule-lr", "0.5"), "--schedule-lr is not used by llr"),
        (("linear",), "needs an initial rate"),
        (("llr", "--epochs", "0"), "epochs takes a number of epochs above 0"),
        (("llr", "--epochs", "1", "--step", "100"), "beyond the last step of the retraining, 99"),
        (("llr", "--milestones", "90,x"), "milestones '90,x' must be epochs"),
        (("llr", "--milestones", "90,200"), "milestone 200 lies beyond the last epoch"),
        (("llr", "--kind", "cosin"), "did you mean 'cosine'"),
        (("llr", "--kind", "linear", "--gamma", "0.5"), "gamma is used by schedule 'stepped' only"),
        (("llr", "--kind", "cyclic"), "restarts at the pruning events"),
        (("llr", "--from", "RUN", "--lr", "0.2"), "'lr' cannot be given with --from"),
        (("llr", "--from", "digit"), "did you mean 'digits'"),
        (("llr", "--plot", "a.pdf"), "must end in .svg or .png"),
        (("llr", "--plot", "none/a.svg"), "the folder 'none' does not exist"),
    ],
)
def test_refused(prune: Prune, history: Path, args: tuple[str, ...], message: str) -> None:
    outcome = prune("schedule", *(str(history) if arg == "RUN" else arg for arg in args))
    assert (outcome.code, outcome.out) == (1, "")
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
