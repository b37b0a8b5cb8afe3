"""A short run of the attacks of soak.py; `make soak` makes thousands."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soak
import soak_folders


def test_a_few_attacks_leave_nothing_wrong(tmp_path: Path) -> None:
    table = tmp_path / "table"
    command = [sys.executable, soak.__file__, "--kills", "2", "--folders", "40", "--faults", "2", "--seed", "7"]
    done = subprocess.run(
        [*command, "--out", str(table)], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(table.read_text())
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[-3:]] == ["kills", "folders", "faults"]


def test_what_goes_wrong_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def folders(number: int, draw: random.Random, folder: Path, tell: soak.Tell) -> Counter[str]:
        return Counter({"hangs": number})

    monkeypatch.setattr(soak, "folders", folders)
    monkeypatch.setattr(sys, "argv", ["soak.py", "--kills", "0", "--folders", "3", "--faults", "0"])
    monkeypatch.setattr(soak, "limit_memory", lambda: None)
    monkeypatch.setenv("XDG_STATE_HOME", "")
    with pytest.raises(SystemExit, match="True"):
        soak.main()
    assert "| folders | 3 | 0 | 0 | 3 | 0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ended", "kind"),
    [
        ((0, "same", ""), ""),
        ((1, "", "warning: x\nerror: y\n"), ""),
        ((0, "other", ""), "wrong bits"),
        ((1, "", ""), "tracebacks"),
        ((1, "", "error: x\nerror: y\n"), "tracebacks"),
        ((1, "", "error: prune show: KeyError (a fault of prune's own: please report it)"), "tracebacks"),
        (soak_folders.Hang(), "hangs"),
        (RecursionError("x"), "tracebacks"),
    ],
)
def test_outcomes_are_judged(ended: tuple[int, str, str] | BaseException, kind: str) -> None:
    def work() -> tuple[int, str, str]:
        if isinstance(ended, BaseException):
            raise ended
        return ended

    assert soak_folders.judged(work, (0, "same"), same=True)[0] == kind
