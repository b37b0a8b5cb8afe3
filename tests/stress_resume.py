"""Kills a plan with SIGKILL at random moments and compares with one never stopped, bit for bit.

    python tests/stress_resume.py [--moments 30] [--seed 0] [--method dpf]

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
from test_methods import SETTINGS

from pruning.training.methods import METHODS


def plan_with(method: str) -> str:
    """Returns the plan, its training with a method."""
    options = ", ".join(f"{key} = {value!r}" for key, value in SETTINGS[method][0].items()).replace("'", '"')
    more = f'method = "{method}"\nmethod_options = {{ {options} }}\n' + "sparsity = 0.5\n" * (METHODS[method].goal)
    return PLAN.replace('[[phases]]\nphase = "prune"', more + '[[phases]]\nphase = "prune"').replace("0.8", "0.999")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", choices=list(SETTINGS), default="none")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="stress-"))
    (folder / "p.toml").write_text(plan_with(options.method))
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
                process.wait(draw.uniform(0.3, 0.9) * span)
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
