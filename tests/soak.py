"""Attacks the tool unattended: kills at random moments, damaged run folders, disk faults; prints one table of what came of it.

    python tests/soak.py [--kills 1000] [--folders 2000] [--faults 500] [--seed 0] [--out FILE]

Counted are wrong bits (a result that differs from that of an undisturbed run, though the command succeeded), tracebacks (anything
but success or one line `error: ...`), hangs, and code that a damaged folder named and that ran. The exit code is 1 where one of
them is not 0. The same seed attacks in the same way.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from kills import PLAN, moments, run_plan, work
from soak_folders import folders
from studies import bits

from pruning.plan import PlanError

COLUMNS = ("wrong bits", "tracebacks", "hangs", "code run")
MEMORY = 16 * 2**30  # a damaged size that asks for more is to fail here, not to end the machine's other work

Tell = Callable[[str], None]


def again(out: Path, wanted: Any, found: Counter[str], what: str, tell: Tell) -> None:
    """Carries the plan out undisturbed where something went wrong before, and compares; removes the folder."""
    try:
        if (code := work(run_plan, PLAN, out)) != 0:
            found["tracebacks"] += 1
            tell(f"tracebacks: {what}: exit code {code} when carried out again")
        elif bits(out) != wanted or list(out.glob("*/.*")) or list(out.glob("*/*.part")):
            found["wrong bits"] += 1
            tell(f"wrong bits: {what}")
    except TimeoutError:
        found["hangs"] += 1
        tell(f"hangs: {what}")
    shutil.rmtree(out, ignore_errors=True)


def kills(number: int, draw: random.Random, folder: Path, tell: Tell) -> Counter[str]:
    """Kills a plan at random moments, up to three times on the way, and compares with one never stopped."""
    found: Counter[str] = Counter()
    whole = folder / "whole"
    assert work(run_plan, PLAN, whole, told=folder / "moments") == 0
    every, wanted = list(moments(folder / "moments")), bits(whole)
    done = plans = 0
    while done < number:
        out, drawn = folder / f"torn{plans}", draw.sample(every, min(draw.randint(1, 3), number - done))
        for moment in drawn:
            done += work(run_plan, PLAN, out, at=moment) == -signal.SIGKILL
        again(out, wanted, found, f"killed at {', '.join(map(str, drawn))}", tell)
        plans += 1
        if plans % 20 == 0:
            tell(f"kills: {done} of {number}")
    return found


CALLS = ("os.replace", "os.fsync", "os.unlink", "os.mkdir", "os.open", "open")


def run_with_a_fault(out: Path, name: str, count: int, number: int, told: Path | None = None) -> None:
    """Carries the plan out where the `count`-th call of a function on a file of the plan fails as a full or broken disk does.

    The numbers of calls go to the file `told`. Exit code 3 is an error of the house's own, 4 any other.
    """
    calls: Counter[str] = Counter()

    def watched(called: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def function(file: Any, *args: Any, **options: Any) -> Any:
            if called == "os.fsync" or (not isinstance(file, int) and out in Path(os.fsdecode(file)).parents):
                calls[called] += 1
                if (called, calls[called]) == (name, count):
                    raise OSError(number, os.strerror(number), *([] if isinstance(file, int) else [os.fspath(file)]))
            return original(file, *args, **options)

        return function

    builtins.open = io.open = watched("open", io.open)  # type: ignore[assignment]
    for called in CALLS[:-1]:
        own = called.removeprefix("os.")
        setattr(os, own, watched(called, getattr(os, own)))
    _ended(out)
    if told is not None:
        told.write_text(json.dumps(calls))


def run_in_little_room(out: Path, room: int) -> None:
    """Carries the plan out where no file may grow beyond `room` bytes, whoever writes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    _ended(out, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before))


def _ended(out: Path, mend: Callable[[], None] = lambda: None) -> None:
    try:
        run_plan(PLAN, out)
    except PlanError:
        mend()
        sys.exit(3)
    except Exception:
        mend()
        traceback.print_exc()
        sys.exit(4)


def faults(number: int, draw: random.Random, folder: Path, tell: Tell) -> Counter[str]:
    """Has a call fail or a file end somewhere in a plan, carries it out again without, and compares with one undisturbed."""
    found: Counter[str] = Counter()
    whole, out = folder / "whole", folder / "faulty"
    run_plan(PLAN, whole)
    wanted = bits(whole)
    largest = max(file.stat().st_size for file in whole.glob("*/*"))
    assert work(run_with_a_fault, out, "", 0, 0, folder / "calls") == 0
    totals = json.loads((folder / "calls").read_text())
    shutil.rmtree(out)
    for i in range(number):
        name = draw.choice((*CALLS, "room"))
        if name == "room":
            room = int(math.exp(draw.uniform(0, math.log(largest))))
            what, task = f"files of {room} bytes at most", (run_in_little_room, out, room)
        else:
            count, error = draw.randint(1, totals[name]), draw.choice((errno.ENOSPC, errno.EIO))
            what, task = f"{name} {count}: {errno.errorcode[error]}", (run_with_a_fault, out, name, count, error)
        try:
            code = work(*task)
        except TimeoutError:
            found["hangs"] += 1
            tell(f"hangs: {what}")
        else:
            if code not in (0, 3):
                found["tracebacks"] += 1
                tell(f"tracebacks: {what}: exit code {code}")
        again(out, wanted, found, what, tell)
        if (i + 1) % 20 == 0:
            tell(f"faults: {i + 1} of {number}")
    return found


def limit_memory() -> None:
    """Has this process and those that it starts ask for MEMORY at most."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("kills", 1000), ("folders", 2000), ("faults", 500), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="a file that the table is also written to")
    options = parser.parse_args()
    limit_memory()
    rows, bad = [], 0
    back = Path.cwd()
    for attack in (kills, folders, faults):
        number = getattr(options, attack.__name__)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            os.environ["XDG_STATE_HOME"] = f"{place}/state"
            draw, tell = random.Random(options.seed), lambda line: print(line, flush=True)
            found = attack(number, draw, Path(place), tell) if number else Counter()
            os.chdir(back)
        tell(f"{attack.__name__}: {number} done in {time.monotonic() - started:.0f} s")
        rows.append(f"| {attack.__name__} | {number:,} | " + " | ".join(str(found[key]) for key in COLUMNS) + " |")
        bad += sum(found[key] for key in COLUMNS)
    table = "\n".join([f"| attack | number | {' | '.join(COLUMNS)} |", f"|---|---:|{'---:|' * len(COLUMNS)}", *rows])
    print(f"\n{table}")
    if options.out is not None:
        options.out.write_text(table + "\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
