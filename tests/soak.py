"""Attacks the tool unattended: kills at random moments, mutated run folders, disk faults; prints one table of what came of it.

    python tests/soak.py [--kills 1000] [--folders 2000] [--faults 500] [--seed 0]

Counted are wrong bits (a result that differs from that of an undisturbed run, though the command succeeded), tracebacks (anything
but one line `error: ...`), hangs, and code of a mutated folder that ran. The exit code is 1 where one of them is not 0.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from kills import PLAN, moments, run_plan, work
from studies import bits

SECONDS = 60  # after which a command counts as hanging
COLUMNS = ("wrong bits", "tracebacks", "hangs", "code run")


class Hang(BaseException):
    """A command that took longer than SECONDS."""


def call(*args: str | Path) -> tuple[int, str, str]:
    """Returns (exit code, standard output, standard error) of a command in this process."""
    from pruning.cli.main import app
    from typer.testing import CliRunner

    def late(signum: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="prune")
        if isinstance(result.exception, Hang):
            raise Hang
        return result.exit_code, result.stdout, result.stderr
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- kills ------------------------------------------------------------------------------------------------------------------------


def kills(number: int, draw: random.Random, folder: Path) -> Counter[str]:
    """Kills a plan at random moments, several times on the way, and compares with one never stopped."""
    found: Counter[str] = Counter()
    whole = folder / "whole"
    assert work(run_plan, PLAN, whole, told=folder / "moments") == 0
    every, wanted = list(moments(folder / "moments")), bits(whole)
    done = plans = 0
    while done < number:
        out = folder / f"torn{plans}"
        for moment in draw.sample(every, min(3, number - done)):
            done += work(run_plan, PLAN, out, at=moment) == -signal.SIGKILL
        if work(run_plan, PLAN, out) != 0:
            found["tracebacks"] += 1
        elif bits(out) != wanted:
            found["wrong bits"] += 1
        shutil.rmtree(out)
        plans += 1
        if plans % 20 == 0:
            print(f"kills: {done} of {number}", flush=True)
    return found


# --- folders ----------------------------------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1.5, "x", "é\n", "../..", [], {}, [[]], [1, 2], {"a": {}}, "subprocess:getoutput", "canary.py:sing",
    "a" * 10**5,
)  # fmt: skip


def edit_json(path: Path, draw: random.Random) -> None:
    """Puts another value at a random place of a JSON object."""
    value = json.loads(path.read_text())
    place = value
    while True:
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and draw.random() < 0.6:
            place = inner
            continue
        place[key] = draw.choice(VALUES)
        break
    path.write_text(json.dumps(value))


def flip(path: Path, draw: random.Random) -> None:
    """Turns a random bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)


def cut(path: Path, draw: random.Random) -> None:
    """Cuts a file at a random place."""
    os.truncate(path, draw.randrange(path.stat().st_size + 1))


def other(path: Path, draw: random.Random) -> None:
    """Puts the file of the same name of another run in its place."""
    others = [run / path.name for run in path.parent.parent.iterdir() if (run / path.name).is_file()]
    data = draw.choice(others).read_bytes()
    path.write_bytes(data)


def become(path: Path, draw: random.Random) -> None:
    """Makes it a pipe, a folder, a device, or a link to nothing or to itself."""
    path.unlink()
    kind = draw.randrange(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to(("/dev/zero", "nowhere", path.name)[kind - 2])


def noise(path: Path, draw: random.Random) -> None:
    """Writes bytes that mean nothing."""
    path.write_bytes(draw.choice([b"", b"\xff\xfe", b"[" * 10**5, b"{}", b"null\n" * 3, draw.randbytes(200)]))


MUTATIONS: tuple[Callable[[Path, random.Random], Any], ...] = (
    flip, cut, other, become, noise, lambda path, draw: path.unlink(), edit_json, edit_json, edit_json,
)  # fmt: skip
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("show", "RUN"),
    ("eval", "RUN", "--device", "cpu", "--json"),
    ("flops", "RUN", "--json"),
    ("list", "runs", "--out", "OUT"),
    ("verify", "OUT"),
    ("report", "OUT", "--out", "REPORT"),
    ("prune", "RUN", "--sparsity", "0.9", "--device", "cpu", "--json"),
    ("retrain", "RUN", "--epochs", "1", "--device", "cpu", "--json"),
)
NUMBERS = ("accuracy", "loss", "metric", "sparsity", "nonzero", "macs", "sparse_macs")


def folders(number: int, draw: random.Random, folder: Path) -> Counter[str]:
    """Changes a file of a finished history at random, and has it read by a random command."""
    found: Counter[str] = Counter()
    base = folder / "base"
    run_plan(PLAN, base)
    names = sorted(path.name for path in base.iterdir())
    wanted: dict[tuple[Any, ...], Any] = {}
    canary = folder / "owned"
    os.chdir(folder)
    (folder / "canary.py").write_text(f"open({str(canary)!r}, 'w')\n\n\ndef sing(**options): ...\n")
    for i in range(number):
        command, name = draw.choice(COMMANDS), draw.choice(names)
        key = (command, name if "RUN" in command else "")

        def args(out: Path, command: tuple[str, ...] = command, name: str = name) -> list[str]:
            places = {"RUN": str(out / name), "OUT": str(out), "REPORT": str(folder / "report")}
            return [places.get(word, word) for word in command]

        if key not in wanted:
            clean = folder / "clean"
            shutil.copytree(base, clean)
            wanted[key] = numbers(call(*args(clean))[1])
            shutil.rmtree(clean)
        out = folder / "mutated"
        shutil.copytree(base, out)
        run = out / draw.choice(names)
        path = draw.choice([p for p in sorted(run.iterdir()) if p.is_file()])
        change = draw.choice(MUTATIONS)
        what = f"{getattr(change, '__name__', 'gone')} {run.name.split('-')[-2]}/{path.name}, prune {' '.join(command[:1])}"
        try:
            change(path, draw)
        except (ValueError, IndexError):  # no JSON, or an empty one
            flip(path, draw)
        try:
            code, told, err = call(*args(out))
        except Hang:
            found["hangs"] += 1
            print(f"hang: {what}", flush=True)
        else:
            lines = [line for line in err.splitlines() if line.startswith("error: ")]
            if "Traceback" in err or "a fault of prune's own" in err or (code and len(lines) != 1):
                found["tracebacks"] += 1
                print(f"traceback: {what}: {err[-300:]}", flush=True)
            elif code == 0 and numbers(told) != wanted[key]:
                found["wrong bits"] += 1
                print(f"other result: {what}: {numbers(told)} for {wanted[key]}", flush=True)
        found["code run"] += canary.exists()
        shutil.rmtree(out)
        shutil.rmtree(folder / "report", ignore_errors=True)
        if (i + 1) % 200 == 0:
            print(f"folders: {i + 1} of {number}", flush=True)
    return found


def numbers(told: str) -> Any:
    """Returns the numbers of a result that must not change, or nothing of a command that prints none."""
    try:
        value = json.loads(told)
    except ValueError:
        return None
    return {key: value.get(key) for key in NUMBERS}


# --- faults -----------------------------------------------------------------------------------------------------------------------


CALLS = ("os.replace", "os.fsync", "os.unlink", "os.mkdir", "os.open", "io.open")


def run_with_a_fault(text: str, out: Path, call: str, count: int, number: int) -> None:
    """Carries a plan out where the `count`-th call of a function on something in `out` fails as a full or broken disk does."""
    module, name = {"os": os, "io": io}[call.split(".")[0]], call.split(".")[1]
    original, calls = getattr(module, name), 0

    def failing(*args: Any, **options: Any) -> Any:
        nonlocal calls
        path = args[0] if isinstance(args[0], (str, os.PathLike)) else None
        if path is None or out in Path(path).parents:
            calls += 1
            if calls == count:
                raise OSError(number, os.strerror(number), *([os.fspath(path)] if path else []))
        return original(*args, **options)

    setattr(module, name, failing)
    try:
        run_plan(text, out)
    except Exception as error:
        sys.exit(3 if type(error).__name__ == "PlanError" else 4)


def faults(number: int, draw: random.Random, folder: Path) -> Counter[str]:
    """Has a write fail somewhere in a plan, carries it out again without, and compares with one undisturbed."""
    found: Counter[str] = Counter()
    whole = folder / "whole"
    run_plan(PLAN, whole)
    wanted = bits(whole)
    for i in range(number):
        out = folder / "faulty"
        name = draw.choice(CALLS)
        code = work(run_with_a_fault, PLAN, out, name, draw.randint(1, 60), draw.choice((errno.ENOSPC, errno.EIO)))
        found["tracebacks"] += code not in (0, 3)
        if code not in (0, 3):
            print(f"fault of {name}: exit code {code}", flush=True)
        if work(run_plan, PLAN, out) != 0:
            found["tracebacks"] += 1
        elif bits(out) != wanted or list(out.glob("*/.*")):
            found["wrong bits"] += 1
        shutil.rmtree(out)
        if (i + 1) % 50 == 0:
            print(f"faults: {i + 1} of {number}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("kills", 1000), ("folders", 2000), ("faults", 500), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    rows, bad = [], 0
    back = Path.cwd()
    for attack in (kills, folders, faults):
        number = getattr(options, attack.__name__)
        with tempfile.TemporaryDirectory() as place:
            os.environ["XDG_STATE_HOME"] = f"{place}/state"
            found = attack(number, random.Random(options.seed), Path(place)) if number else Counter()
            os.chdir(back)
        rows.append(f"| {attack.__name__} | {number:,} | " + " | ".join(str(found[key]) for key in COLUMNS) + " |")
        bad += sum(found[key] for key in COLUMNS)
    print(f"\n| attack | number | {' | '.join(COLUMNS)} |\n|---|---:|{'---:|' * len(COLUMNS)}")
    print("\n".join(rows))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
