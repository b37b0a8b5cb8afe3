"""Tables on narrow terminals: numbers are whole or left out by name, words are broken."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import TINY, Prune
from pruning.cli import screen, screen_tables
from rich.console import Console
from rich.text import Text

COLUMNS = ["run", ">sparsity", ">accuracy", ">MACs", ">speedup", ">time"]
ROWS = [
    ["lenet-300-100-digits-s0-retrain-4835ae51", "90.0 %", "98.76 %", "1.23 M", "13.8x", "638 ms"],
    ["a", "0.0 %", "100.00 %", "537 k", "1x", "4 min 10 s"],
]


def drawn(width: int, columns: Sequence[str] = COLUMNS, rows: Sequence[Sequence[str]] = ROWS) -> str:
    """Returns the table as it is drawn on a terminal of that width."""
    shown = screen.Screen()
    shown.console = Console(file=io.StringIO(), width=width, force_terminal=False)
    shown.table("Title", columns, rows)
    text = shown.console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines()[1:] if "left out" not in line)
    return text


@pytest.mark.parametrize("width", [30, 40, 50, 60, 70, 80, 100, 200])
def test_no_number_is_cut(width: int) -> None:
    text = drawn(width)
    left = screen.too_wide(COLUMNS, ROWS, width)
    for i, column in enumerate(COLUMNS):
        for row in ROWS:
            if column.startswith(">"):
                assert (row[i] in text) == (i not in left) or any(
                    row[i] in cell for r in ROWS for cell in r if cell != row[i]
                )
    for name in left.values():
        assert name in text.splitlines()[-1]
    letters = "".join(line[: width // 2] for line in text.splitlines())
    assert letters.replace(" ", "").count("lenet") or "lenet" in text.replace("\n", "")


def test_what_is_left_out_goes_by_rank() -> None:
    assert screen.too_wide(COLUMNS, ROWS, 200) == {}
    assert screen.too_wide(COLUMNS, ROWS, 65) == {}  # long names are broken before a number goes
    assert screen.too_wide(COLUMNS, ROWS, 60) == {3: "MACs"}
    assert list(screen.too_wide(COLUMNS, ROWS, 45).values()) == ["MACs", "time"]
    assert len(screen.too_wide(COLUMNS, ROWS, 10)) == 4  # one number stays


def test_texts_are_broken_between_words_and_not_before_a_unit() -> None:
    text = Text("Layers (weights without biases; 537 k MACs; 10.8x; 638 ms)", style="bold")
    assert [line.plain for line in screen.wrapped(text, 200)] == [text.plain]
    assert [line.plain for line in screen.wrapped(text, 35)] == [
        "Layers (weights without biases;", "537 k MACs; 10.8x; 638 ms)",
    ]  # fmt: skip
    for width in range(1, 60):
        lines = [line.plain for line in screen.wrapped(text, width)]
        assert " ".join(lines) == text.plain
        assert all(any(unit in line for line in lines) for unit in ("537 k", "10.8x", "638 ms"))
        assert all(len(line) <= max(width, len("(weights")) for line in lines)


@pytest.mark.parametrize("width", [80, 60])
def test_commands_on_a_narrow_terminal_show_whole_numbers(
    prune: Prune, history: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.chdir(history.parents[1])
    seen: list[tuple[list[str], Sequence[Sequence[str]]]] = []

    def table(self: screen.Screen, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.console = Console(file=io.StringIO(), width=width, force_terminal=False)
        self.terminal = True
        draw(self, title, columns, rows)
        left = screen.too_wide(columns, rows, width)
        kept = [i for i, column in enumerate(columns) if column.startswith(">") and i not in left]
        seen.append((self.console.file.getvalue().splitlines(), [[row[i] for i in kept] for row in rows]))  # type: ignore[attr-defined]

    draw = screen.Screen.table
    monkeypatch.setattr(screen.Screen, "table", table)
    for args in (
        ("show", history, "--layers"),
        ("list", "runs"),
        ("flops", history),
        ("flops", "--model", "resnet56", "--input", "3x32x32"),
        ("verify", "runs"),
        ("run", "digits", "--dry-run"),
    ):
        seen.clear()
        assert prune(*args).code == 0
        assert seen
        for lines, rows in seen:
            assert all(len(line) <= width for line in lines), args
            for row in rows:  # side by side on one line, whatever is broken into more
                cells = [re.compile(rf"(^|\s){re.escape(cell)}(\s|$)") for cell in row]
                assert any(all(cell.search(line) for cell in cells) for line in lines), row


def test_one_is_no_plural() -> None:
    assert [screen_tables.counted(n, "epoch") for n in (0, 1, 2, 0.5)] == [
        "0 epochs",
        "1 epoch",
        "2 epochs",
        "0.5 epochs",
    ]
    rates = screen_tables.rates({"lrw": lambda step: 0.1}, [0], 1, 1, 1)
    assert rates[0] == "Learning rates of a retraining of 1 epoch, 1 step"
    assert screen_tables.listing([], Path("runs"))[0].startswith("0 runs in runs/")


def test_runs_are_listed_by_time_with_their_parents(prune: Prune, workspace: object) -> None:
    dense = prune("train", *TINY, "--epochs", "1").run
    pruned = prune("prune", dense, "--sparsity", "0.5", "--device", "cpu").run
    found = prune("list", "runs", "--json").json["runs"]
    assert [(row["name"], row["parent"]) for row in found] == [(dense.name, None), (pruned.name, dense.name)]
    assert "train-" in prune("list", "runs").err.splitlines()[-2]
    assert [row["name"] for row in prune("list", "runs", "prune-", "--json").json["runs"]] == [pruned.name]


def test_lists_are_filtered_by_a_part_of_the_name(prune: Prune) -> None:
    names = [entry["name"] for entry in prune("list", "studies", "renda", "--json").json["studies"]]
    assert names
    assert all("renda" in name for name in names)
    refused = prune("list", "studies", "rendo")
    assert refused.code == 1
    assert "none of the studies holds 'rendo'" in refused.err


def test_flops_take_the_shape_from_the_data(prune: Prune) -> None:
    by_data = prune("flops", "--model", "lenet-5", "--data", "digits", "--json").json
    assert by_data == prune("flops", "--model", "lenet-5", "--input", "1x8x8", "--json").json
    shapes = prune("flops", "--model", "lenet-5", "--data", "digits", "--set", "model_options.pool=avg", "--json")
    assert shapes.code == 1
    assert "pool" in shapes.err
    with_classes = ("--data", "digits", "--classes", "10")
    for args in (("--data", "digits", "--input", "1x8x8"), (), with_classes):
        assert prune("flops", "--model", "lenet-5", *args).code == 2


def test_flops_of_code_and_data_of_ones_own(prune: Prune, workspace: Path) -> None:
    named = ("--model", "nets.py:tiny", "--data", "sets.py:blobs")
    narrow, wide = (
        prune("flops", *named, "--set", f"{key}=5", "--json").json for key in ("width", "model_options.width")
    )
    assert narrow == wide
    assert narrow["macs"] == 16 * 5 + 5 * 3
    assert prune("flops", *named, "--set", "data_options.colour=1").code == 1
    two = """
import torch
def pairs():
    x = {"left": torch.ones(12, 4), "right": torch.ones(12, 6)}
    y = torch.arange(12) % 3
    return {"train": (x, y), "validation": (x, y), "test": (x, y), "classes": 3}
class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.out = torch.nn.Linear(10, classes)
    def forward(self, left, right):
        return self.out(torch.cat([left, right], 1))
def net(classes):
    return Net(classes)
"""
    (workspace / "two.py").write_text(two)
    assert prune("flops", "--model", "two.py:net", "--data", "two.py:pairs", "--json").json["macs"] == 30
    assert not (workspace / "runs").exists()


def test_one_damaged_run_is_no_plural(prune: Prune, workspace: Path) -> None:
    run = prune("train", *TINY, "--epochs", "1").run
    (run / "weights.safetensors").write_bytes(b"")
    assert "error: 1 of 1 run is damaged or orphaned; the first is" in prune("verify", run).err
    listed = prune("list", "runs").err
    assert "1 run in runs/" in listed
    assert "state" not in listed


def test_runs_that_are_not_done_have_a_state(prune: Prune, workspace: Path) -> None:
    run = prune("train", *TINY, "--epochs", "1").run
    (run / "summary.json").unlink()
    listed = prune("list", "runs").err
    assert "state" in listed
    assert "unfinished" in listed
