"""Kills a plan at every step, log line and file that it writes, in turn, and compares with one never stopped, bit for bit.

    python tests/stress_resume.py [--method dpf] [--random 30 --seed 0]

Not part of the suite, which tries some moments of one plan (test_engine.py): all of them take minutes. With --random only so many
are drawn.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from kills import PLAN, moments, run_plan, work
from test_engine import assert_same
from test_methods import SETTINGS

from pruning.training.methods import METHODS


def plan_with(method: str) -> str:
    """Returns the plan, its training with a method."""
    options = ", ".join(f"{key} = {value!r}" for key, value in SETTINGS[method][0].items()).replace("'", '"')
    more = f'method = "{method}"\nmethod_options = {{ {options} }}\n' + "sparsity = 0.5\n" * (METHODS[method].goal)
    return PLAN.replace('[[phases]]\nphase = "prune"', more + '[[phases]]\nphase = "prune"').replace("0.8", "0.999")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=list(SETTINGS), default="none")
    parser.add_argument("--random", type=int, help="draw so many moments in place of all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    plan = plan_with(options.method)
    folder = Path(tempfile.mkdtemp(prefix="stress-"))
    whole, torn = folder / "whole", folder / "torn"
    assert work(run_plan, plan, whole, told=folder / "moments") == 0
    every = list(moments(folder / "moments"))
    tried = every if options.random is None else random.Random(options.seed).sample(every, options.random)
    for number, moment in enumerate(tried, start=1):
        assert work(run_plan, plan, torn, at=moment) == -signal.SIGKILL, moment
        assert work(run_plan, plan, torn) == 0, moment
        for run in sorted(whole.iterdir()):
            assert_same(run, torn / run.name)
        shutil.rmtree(torn)
        print(f"{number} of {len(tried)}: {moment}: equal", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
