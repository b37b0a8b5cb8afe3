"""Fixtures that the parts' tests share: a small data set and network of one's own, and the command line in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

# Before torch is loaded, and for the processes that tests start: small tensors gain nothing from threads, which
# on two shared cores wait for each other. Tests of the number of threads set their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NETS = """
from torch import nn


def tiny(shape, classes, width=8):
    size = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, classes))


def build(shape, classes):
    size = shape[1] * shape[2]
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * size, classes))


def no_tensor(shape, classes):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, classes)

        def forward(self, x):
            y = self.linear(x.flatten(1))
            return y, y

    return Pair()


def no_module(shape, classes):
    return "a network"


def nothing_to_prune(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(16), nn.AdaptiveAvgPool1d(classes))


def five_classes(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5))


def fails(shape, classes):
    raise RuntimeError("no weights\\nto be had")
"""

SETS = """
import torch


def _part(n, seed, classes=3, size=4):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = torch.eye(classes).repeat_interleave(size * size // classes + 1, 1)[:, : size * size]
    x = centres[y] + 0.5 * torch.randn(n, size * size, generator=generator)
    return x.view(n, 1, size, size), y


def blobs():
    return _part(60, 0), _part(30, 1), _part(30, 2)


def empty():
    return (torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64)), None, _part(30, 2)


def strange_labels():
    return _part(60, 0), _part(30, 1), _part(30, 2, classes=4)


def other_size():
    return _part(60, 0), _part(30, 1), _part(30, 2, size=5)


def broken():
    x, y = _part(60, 0)
    return (x.fill_(float("nan")), y), _part(30, 1), _part(30, 2)


def one_part():
    return _part(60, 0)
"""

TINY = ("--model", "nets.py:tiny", "--data", "sets.py:blobs", "--device", "cpu")


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def run(self) -> Path:
        """The one line of standard output, as a path."""
        assert self.code == 0, self.err
        (line,) = self.out.splitlines()
        return Path(line)

    @property
    def json(self) -> dict[str, Any]:
        """The one line of standard output, as a JSON object."""
        assert self.code == 0, self.err
        (line,) = self.out.splitlines()
        return json.loads(line)


Prune = Callable[..., Outcome]


def write_code(folder: Path) -> Path:
    """Returns the folder, in which nets.py and sets.py now lie."""
    (folder / "nets.py").write_text(NETS)
    (folder / "sets.py").write_text(SETS)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Returns the contents of all files under a folder, compiled Python aside."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked gpu, with the reason, where torch sees no GPU."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session", autouse=True)
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an account of the tests' own, so that they neither read nor write the user's key."""
    folder = tmp_path_factory.mktemp("state")
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture
def prune() -> Prune:
    """The command line: prune("train", "digits", ...) in this process; `stdin` is text, as from a pipe."""
    from pruning.cli.main import app

    def call(*args: str | Path | float, stdin: str = "") -> Outcome:
        result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin, prog_name="prune")
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with nets.py and sets.py, as the current folder."""
    monkeypatch.chdir(write_code(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a retrained run of the tiny network; its parents, dense and pruned, lie beside it. To be read only."""
    from pruning.cli.main import app

    folder = write_code(tmp_path_factory.mktemp("history"))
    run = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (
            ["train", *TINY, "--epochs", "4", "--set", "batch_size=20", "--set", "keep_epochs=[0,2]"],
            ["prune", "-", "--sparsity", "0.5", "--device", "cpu"],
            ["retrain", "-", "--epochs", "2", "--device", "cpu"],
        ):
            result = CliRunner().invoke(app, command, input=run, prog_name="prune")
            assert result.exit_code == 0, result.stderr
            run = result.stdout
    return folder / run.strip()
