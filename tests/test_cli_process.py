"""The command line as a process of its own: a shell's pipeline, signals, readers that go away, a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from kills import Moment, work
from pruning.cli.main import main

from pruning.record import checkpoint, runs

PRUNE = [sys.executable, "-m", "pruning.cli"]
LONG = ("train", *TINY, "--set", "batch_size=20", "--epochs", "1000000")


def spawn(*args: str, **options: Any) -> subprocess.Popen[str]:
    """Returns the command, begun."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*PRUNE, *args], text=True, **streams)


def test_a_shells_pipeline(workspace: Path) -> None:
    p = " ".join(PRUNE)
    line = (
        f"{p} train {' '.join(TINY)} --epochs 2 --quiet | {p} prune - --sparsity 0.9 -q | "
        f"{p} retrain - --technique lr-rewind --epochs 1 --json -q"
    )
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["phase"] == "retrain"


def command(args: tuple[str, ...], err: Path) -> None:
    """Runs the command line as a process's work, with a resume file after every epoch; standard error goes to a file."""
    from pruning.engine import fitting

    fitting.SAVE_EVERY = 0.0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background had ignored
    with err.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.argv = ["prune", *args]
    main()


def test_an_interrupted_training_says_so_and_resumes(workspace: Path) -> None:
    said = "interrupted; the same command, given again, resumes"
    err = workspace / "err.txt"
    assert work(command, LONG, err, at=Moment("line", count=5), sign=signal.SIGTERM) == 143
    assert err.read_text().splitlines()[1:] == [said]
    assert work(command, LONG, err, at=Moment("step", count=5), sign=signal.SIGINT) == 130
    first, last = err.read_text().splitlines()
    assert re.search(r"1000000 epochs, 3000000 steps, resumed after epoch 4$", first)
    assert last == said
    (run,) = (workspace / "runs").iterdir()
    assert not runs.is_done(run)
    assert [record["epoch"] for record in runs.log(run)] == [1, 2, 3, 4, 5]
    assert checkpoint.load(run / runs.RESUME)[1]["epoch"] == 5


def test_a_signal_from_outside_ends_a_command(workspace: Path) -> None:
    process = spawn(*LONG)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err.splitlines() == ["interrupted; the same command, given again, resumes"]


def test_a_reader_that_went_away_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = spawn("list", "recipes", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "error" not in err


@pytest.mark.parametrize("args", [("list", "recipes"), ("list", "recipes", "--json"), ("--help",)])
def test_a_full_disk_is_an_error(args: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        process = spawn(*args, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "No space left on device" in err.splitlines()[-1]


def on_a_terminal(*args: str, **environment: str) -> tuple[int, str]:
    """Returns the exit code of a command on a terminal of 100 columns, and all that was written there."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(PRUNE[0], [*PRUNE, *args], {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment})
    seen = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), seen.decode()


def test_a_terminal_sees_bars_and_is_refused_as_a_pipe(workspace: Path) -> None:
    code, seen = on_a_terminal("train", *TINY, "--epochs", "1500", NO_COLOR="")
    assert code == 0
    assert "━" in seen
    assert "/1500, loss" in seen
    assert seen.rstrip().splitlines()[-1].startswith("runs/")
    code, seen = on_a_terminal("eval", "-")
    assert code == 1
    assert "standard input is a terminal" in seen


def test_no_color_is_respected() -> None:
    colour, plain = on_a_terminal("list", "recipes", NO_COLOR="")[1], on_a_terminal("list", "recipes", NO_COLOR="1")[1]
    assert "\x1b[1m" in colour
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", plain)
