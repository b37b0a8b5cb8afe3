"""Kills a plan with SIGKILL at random moments and compares with one never stopped, bit for bit.

    python tests/stress_resume.py [--moments 30] [--seed 0]

Not part of the suite, which tries a handful of moments (test_engine.py): thirty take some minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from test_engine import PLAN, SCRIPT, assert_same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="stress-"))
    (folder / "p.toml").write_text(PLAN)
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(folder / "script.py"), str(folder / "p.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    subprocess.run([*command, str(folder / "whole")], check=True, env=environment)
    span = time.monotonic() - started
    killed = rounds = 0
    while killed < options.moments:
        torn = folder / f"torn{rounds}"
        rounds += 1
        while True:
            process = subprocess.Popen([*command, str(torn)], env=environment)
            try:
                process.wait(draw.uniform(0.3, 1.1) * span)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                continue
            assert process.returncode == 0
            break
        for run in sorted((folder / "whole").iterdir()):
            assert_same(run, torn / run.name)
        print(f"{killed} kills, {rounds} plans completed, all equal", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
