"""What a study costs, beside what its runs take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Prune

from pruning.record import runs
from pruning.study import sweep
from pruning.study.sweep.cost import cost

STUDY = """
    phases = [
      { phase = "train", model = "lenet-300-100", data = "DATA", split = "train-10", epochs = 2, batch_size = 100 },
      { phase = "prune", sparsity = "$sparsity" },
      { phase = "retrain", technique = "fine-tune", epochs = "$length" },
    ]
    seeds = [0, 1]
    [axes]
    sparsity = [0.5, 0.9]
    length = [1, 0.5, "3 steps"]
"""


def costs(data: str, out: Path, **more: int) -> dict[str, tuple[int, int, float | None, float | None]]:
    points = sweep.expand(sweep.parse_study(STUDY.replace("DATA", data), "x"))
    found = cost(sweep.build(points, out), [], **more)
    return {kind: (c.phases, c.done, c.epochs, c.images) for kind, c in found.items()}


def test_epochs_and_images_follow_from_the_phases_that_differ(tmp_path: Path) -> None:
    retrained = 4 * (1 + 225 / 450 + 3 / 450)  # 45,000 images are 450 steps
    assert costs("cifar10", tmp_path) == {
        "train": (2, 0, 4, 180_000),
        "prune": (4, 0, 0, 0),
        "retrain": (12, 0, pytest.approx(retrained), pytest.approx(45_000 * retrained)),
        "total": (18, 0, pytest.approx(4 + retrained), pytest.approx(45_000 * (4 + retrained))),
    }


def test_without_a_size_only_epochs_are_known_and_only_where_no_length_is_in_steps(tmp_path: Path) -> None:
    found = costs("folder", tmp_path)
    assert found["train"] == (2, 0, 4, None)
    assert found["retrain"] == (12, 0, None, None)
    assert costs("folder", tmp_path, images=50_000) == costs("cifar10", tmp_path)


def test_what_is_done_costs_nothing_and_a_run_says_how_fast(prune: Prune, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn (extra demo)")
    study = tmp_path / "x.toml"
    study.write_text(STUDY.replace("DATA", "digits"))
    before = prune("sweep", str(study), "--cost", "--json", "--out", str(tmp_path / "runs")).json
    assert not (tmp_path / "runs").exists()
    prune("sweep", str(study), "--out", str(tmp_path / "runs"), "--device", "cpu", "--jobs", "1")
    trained = next(p for p in (tmp_path / "runs").iterdir() if "train" in p.name.split("-")[-2:] or "-train-" in p.name)
    done = prune(
        "sweep", str(study), "--cost", "--json", "--out", str(tmp_path / "runs"), "--throughput", str(trained)
    ).json
    summaries = [runs.read_summary(p) for p in (tmp_path / "runs").iterdir() if runs.is_run(p)]
    assert before["total"]["epochs"] == pytest.approx(sum(s["epochs"] for s in summaries), abs=1e-5)
    assert before["total"]["images"] == pytest.approx(1_298 * before["total"]["epochs"], rel=1e-6)
    assert done["total"] == {"phases": 18, "done": 18, "epochs": 0, "images": 0, "hours": 0}
    assert done["throughput"] == pytest.approx(json.loads((trained / "summary.json").read_text())["images_per_second"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--throughput", "100"), "--throughput is used with --cost alone"),
        (("--images", "5"), "--images is used with --cost alone"),
        (("--cost", "--throughput", "-3"), "must be above 0 images a second, not -3"),
        (("--cost", "--throughput", "no-run"), "no-run"),
    ],
)
def test_bad_input(prune: Prune, arguments: tuple[str, ...], says: str) -> None:
    outcome = prune("sweep", "renda-figure-1-digits", *arguments)
    assert outcome.code != 0
    assert says in outcome.err
