"""The session on a GPU, dry: the same script on the CPU, its results, what it leaves out and what it survives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruning import ops

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(ops.backend("cpu") != "native-cpu", reason="the CPU kernels were not built here")


def session(out: Path, **settings: str) -> tuple[int, str]:
    """Returns the exit code of a dry session and the steps that it lists."""
    environment = {**os.environ, "DRY": "1", "OUT": str(out), "PYTHON": sys.executable, **settings}
    command = ["bash", str(ROOT / "benchmarks" / "gpu_session.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    steps = (out / "steps.txt").read_text()
    assert steps in done.stdout
    return done.returncode, steps


def test_a_dry_session_runs_the_chosen_steps_and_leaves_few_files(tmp_path: Path) -> None:
    code, steps = session(tmp_path, STEPS="build ops nnz memcheck")
    *ran, skipped = (line.split() for line in steps.splitlines())
    assert [line[:3] for line in ran] == [[name, "rc", "0"] for name in ("build", "ops", "nnz")]
    assert skipped == ["memcheck", "skipped:", "compute-sanitizer", "needs", "a", "GPU"]
    assert code == 0
    expected = {"steps.txt", "machine.txt", "benchmarks.jsonl", "benchmarks.txt", "logs.tar.gz"}
    assert {p.name for p in tmp_path.iterdir()} == expected
    (row,) = (json.loads(line) for line in (tmp_path / "benchmarks.jsonl").read_text().splitlines())
    assert row["op"] == "nnz"
    assert row["network"] == "resnet56"
    assert "prune, weights" in (tmp_path / "benchmarks.txt").read_text()


def test_steps_that_would_not_fit_are_named_and_one_that_fails_leaves_the_others_running(tmp_path: Path) -> None:
    code, steps = session(tmp_path, STEPS="nnz train", LIMIT="1")
    assert code == 0
    assert [line.split()[:2] for line in steps.splitlines()] == [["nnz", "skipped:"], ["train", "skipped:"]]
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\ncase "$*" in *benchmarks/nnz.py*) exit 3;; esac\nexec "{sys.executable}" "$@"\n')
    broken.chmod(0o755)
    code, steps = session(tmp_path, STEPS="nnz ops", PYTHON=str(broken))
    assert code == 1
    assert [line.split()[:3] for line in steps.splitlines()] == [["ops", "rc", "0"], ["nnz", "rc", "3"]]
