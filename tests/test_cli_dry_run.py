"""`--dry-run` of what makes more than runs: a comparison and a shrunk network, shown and not written."""

from __future__ import annotations

from pathlib import Path

from conftest import TINY, Prune, files


def test_a_comparison_is_shown_beforehand(prune: Prune, workspace: Path) -> None:
    args = (
        "compare",
        "digits",
        "--sparsity",
        "0.5",
        "--sparsity",
        "0.9",
        "--seeds",
        "0,1",
        "--set",
        "train.epochs=2",
        "--dry-run",
    )
    rows = prune(*args, "--json").json["rows"]
    assert [(row["goal"], row["seed"]) for row in rows] == [(0.5, 0), (0.5, 1), (0.9, 0), (0.9, 1)]
    assert all([phase["phase"] for phase in row["phases"]] == ["train", "prune", "retrain"] for row in rows)
    assert rows[0]["phases"][0]["run"] == rows[2]["phases"][0]["run"]
    told = prune(*args)
    assert "nothing was written (run folders in runs/, 10 distinct, 10 phases to do)" in told.err
    assert told.out.startswith("| plan | goal | seed |")
    assert not (workspace / "runs").exists()
    refused = prune("compare", "digits", "--method", "str", "--sparsity", "0.9", "--dry-run")
    assert (refused.code, "--search" in refused.err) == (1, True)
    assert prune("compare", "digits", "--method", "str", "--sparsity", "0.9", "--search", "3", "--dry-run").code == 2


def test_a_comparison_does_what_was_shown(prune: Prune, workspace: Path) -> None:
    (workspace / "plan.toml").write_text(
        """
[[phases]]
phase = "train"
model = "nets.py:tiny"
data = "sets.py:blobs"
epochs = 1
[[phases]]
phase = "prune"
sparsity = 0.5
"""
    )
    args = ("compare", "plan.toml", "--trust-code", "--device", "cpu", "--sparsity", "0.75", "--json")
    (shown,) = prune(*args, "--dry-run").json["rows"]
    assert not (workspace / "runs").exists()
    prune(*args)
    assert {phase["run"] for phase in shown["phases"]} == {
        f"runs/{path.name}" for path in (workspace / "runs").iterdir()
    }
    assert all(phase["done"] for phase in prune(*args, "--dry-run").json["rows"][0]["phases"])


def test_shrinking_is_shown_beforehand(prune: Prune, workspace: Path) -> None:
    dense = prune("train", *TINY, "--epochs", "1").run
    pruned = prune("prune", dense, "--structure", "filters", "--sparsity", "0.5", "--device", "cpu").run
    before = files(workspace)
    shown = prune("shrink", pruned, "--dry-run")
    assert shown.run == pruned.with_name(f"{pruned.name}-shrunk")
    assert "nothing was written" in shown.err
    told = prune("shrink", pruned, "--dry-run", "--json").json
    assert files(workspace) == before
    assert told == prune("shrink", pruned, "--json").json
    refused = prune("shrink", pruned, "--dry-run", "--to", dense)
    assert (refused.code, "no shrunk network" in refused.err) == (1, True)
