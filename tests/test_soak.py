"""A short run of the attacks of soak.py; `make soak` makes thousands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_few_attacks_leave_nothing_wrong(tmp_path: Path) -> None:
    script = Path(__file__).with_name("soak.py")
    command = [sys.executable, str(script), "--kills", "4", "--folders", "60", "--faults", "4", "--seed", "7"]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[-3:]] == ["kills", "folders", "faults"]
