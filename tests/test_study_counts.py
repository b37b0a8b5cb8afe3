"""Every study has as many runs, and axes as long, as tests/study_counts.csv says; the table states where each count is from."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from pruning.study import sweep
from pruning.study.sweep.study import combinations

ROWS = {
    row["study"]: row for row in csv.DictReader(Path(__file__).with_name("study_counts.csv").read_text().splitlines())
}


def test_the_table_names_every_study_once_and_its_arithmetic_is_right() -> None:
    assert list(ROWS) == sweep.study_names()
    for name, row in ROWS.items():
        terms = [term.split(" x ") for term in row["arithmetic"].split(" + ")]
        assert sum(math.prod(map(int, term)) for term in terms) == int(row["runs"]), name
        assert row["source"], name


@pytest.mark.parametrize("name", sweep.study_names())
def test_a_study_has_as_many_runs_as_the_table_says(name: str) -> None:
    study = sweep.load_study(name)  # what it needs is not needed to count its combinations
    found = combinations(study)
    assert len(found) * len(study.seeds) == int(ROWS[name]["runs"])
    if ROWS[name]["axes"]:
        lengths = {axis: len({str(row[axis].label) for row in found}) for axis in found[0]}
        assert "; ".join(f"{axis} {length}" for axis, length in lengths.items()) == ROWS[name]["axes"]
