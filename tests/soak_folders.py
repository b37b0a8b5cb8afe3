"""The attack of soak.py on run folders: one file is damaged, then a command reads the folder, in this process."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from damage import damage
from kills import PLAN, Moment, run_plan, work

SECONDS = 60  # after which a command counts as hanging
HALF_DONE = Moment("step", count=60)  # in the second epoch of the retraining

# What only tells what summary.json and log.jsonl say of a run is not compared where these were edited.
TOLD = ("summary.json", "log.jsonl", "env.json")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("show", "RUN", "--json"),
    ("show", "RUN", "--layers"),
    ("eval", "RUN", "--device", "cpu", "--json"),
    ("flops", "RUN", "--json"),
    ("list", "runs", "--out", "OUT", "--json"),
    ("verify", "OUT"),
    ("report", "OUT", "--out", "REPORT"),
    ("prune", "RUN", "--sparsity", "0.9", "--device", "cpu"),
    ("retrain", "RUN", "--epochs", "1", "--device", "cpu"),
    ("shrink", "RUN"),
    ("export", "RUN"),
    ("run", "PLAN", "--out", "OUT", "--device", "cpu"),
    ("load_shrunk",),
)
NUMBERS = (
    "accuracy",
    "loss",
    "metric",
    "sparsity",
    "compression",
    "params",
    "nonzero",
    "macs",
    "sparse_macs",
    "speedup",
)


class Hang(BaseException):
    """A command that took longer than SECONDS."""


@contextmanager
def limited() -> Iterator[None]:
    """Raises Hang in what takes longer than SECONDS."""

    def late(signum: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(*args: str) -> tuple[int, str, str]:
    """Returns (exit code, standard output, standard error) of a command in this process."""
    from pruning.cli.main import app
    from typer.testing import CliRunner

    with limited():
        result = CliRunner().invoke(app, list(args), prog_name="prune")
        if isinstance(result.exception, Hang):
            raise Hang
        return result.exit_code, result.stdout, result.stderr


def make(folder: Path) -> Path:
    """Makes what is to be damaged; returns the folder: dense -> pruned -> retrained, filters of dense pruned and shrunk, and in
    a folder beside it, `torn`, the same plan killed while it retrained."""
    base, torn = folder / "base", folder / "torn"
    (folder / "plan.toml").write_text(PLAN)
    run_plan(PLAN, base)
    assert work(run_plan, PLAN, torn, at=HALF_DONE) == -signal.SIGKILL
    assert list(torn.glob("*/resume.safetensors"))
    dense = next(base.glob("*-train-*"))
    code, out, err = call("prune", str(dense), "--structure", "filters", "--sparsity", "0.5", "--device", "cpu")
    assert code == 0, err
    code, out, err = call("shrink", out.strip(), "--to", str(base / "small"))
    assert code == 0, err
    return base


def loaded(folder: Path) -> tuple[int, Any, str]:
    """Returns what :func:`call` does of a shrunk network that is read back: 0 and its tensors, or 1 and the error's text."""
    from pruning import engine
    from pruning.plan import PlanError

    try:
        with limited():
            state = engine.load_shrunk(folder).state_dict()
    except PlanError as error:
        return 1, None, f"error: {error}"
    return 0, {name: tensor.numpy().tobytes() for name, tensor in state.items()}, ""


def outcome(out: Path, command: tuple[str, ...], name: str) -> tuple[int, Any, str]:
    """Returns exit code, what must be the same as from a sound folder, and standard error of a command."""
    if command == ("load_shrunk",):
        return loaded(out / "small")
    report, plan = out.parent / "report", out.parent / "plan.toml"
    places = {"RUN": str(out / name), "OUT": str(out), "REPORT": str(report), "PLAN": str(plan)}
    before = set(out.iterdir())
    finished = {path.parent for path in out.glob("*/summary.json")}
    code, told, err = call(*(places.get(word, word) for word in command))
    result: Any = told + err
    if command[0] == "eval" and code == 0:
        value = json.loads(told)
        result = [value[key] for key in NUMBERS]
    elif command[0] in ("prune", "retrain", "shrink"):
        result = tensors(path for path in out.iterdir() if path not in before)
    elif command[0] == "export" and code == 0:
        result = Path(told.strip()).read_bytes()
    elif command[0] == "run":
        # a finished run is named, not read
        result = tensors(path for path in out.glob("*-retrain-*") if path not in finished)
    return code, result, err


def tensors(runs: Iterable[Path]) -> dict[str, bytes]:
    """Returns the tensor files of some folders."""
    return {f"{run.name}/{file.name}": file.read_bytes() for run in runs for file in run.glob("*.safetensors")}


def faulty(code: int, err: str) -> bool:
    """Returns whether a command ended in anything but success or one line `error: ...`."""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    bad = "Traceback" in err or "a fault of prune's own" in err
    return bad or code not in (0, 1, 2) or (code != 0 and len(lines) != 1)


def compared(command: str, hurt: Path) -> bool:
    """Returns whether a command that succeeds must give the sound folder's result, whatever was done to this file.

    `list` and `report` show damaged runs as such, and what `show` repeats of summary.json and log.jsonl is what they say.
    """
    if command == "verify":
        return hurt.suffix == ".safetensors" and hurt.name != "resume.safetensors"
    return command not in ("list", "report") and not (command == "show" and hurt.name in TOLD)


@contextmanager
def copied(source: Path, out: Path) -> Iterator[None]:
    """Has a copy of a folder at `out`, for a while."""
    shutil.copytree(source, out)
    try:
        yield
    finally:
        shutil.rmtree(out)
        shutil.rmtree(out.parent / "report", ignore_errors=True)


def folders(number: int, draw: random.Random, folder: Path, tell: Callable[[str], None]) -> Counter[str]:
    """Damages a file of a finished or interrupted history at random, and has the folder read by a random command."""
    found: Counter[str] = Counter()
    base, torn = make(folder), folder / "torn"
    wanted: dict[tuple[Any, ...], Any] = {}
    canary, out = folder / "owned", folder / "mutated"
    os.chdir(folder)
    (folder / "canary.py").write_text(f"open({str(canary)!r}, 'w')\n\n\ndef sing(**options): ...\n")
    names = sorted(path.name for path in base.iterdir() if path.name != "small")
    for i in range(number):
        command = draw.choice(COMMANDS)
        source = draw.choice((base, torn)) if command[0] in ("run", "list", "verify", "report") else base
        name = draw.choice(names) if "RUN" in command else ""
        key = (source, command, name)
        if key not in wanted:
            with copied(source, out):
                wanted[key] = outcome(out, command, name)[:2]
        files = sorted(p.relative_to(source) for p in source.glob("*/*") if p.is_file())
        truth = tensors(path for path in base.glob("*-retrain-*"))  # what a plan that makes it anew must give
        if command == ("load_shrunk",):
            files = [file for file in files if file.parts[0] == "small"]
        elif name and draw.random() < 0.5:
            files = [file for file in files if file.parts[0] == name]
        hurt = draw.choice(files)
        with copied(source, out):
            what = f"{damage(out / hurt, draw, canary)} of {hurt}, prune {' '.join(command)} {name}"
            renamed = not (out / hurt).parent.exists()  # a whole run under another name is told as such
            same = compared(command[0], hurt) and not (command[0] == "verify" and renamed)
            kind, why = judged(
                partial(outcome, out, command, name), wanted[key], same, truth if command[0] == "run" else None
            )
        if kind:
            found[kind] += 1
            tell(f"{kind}: {what}: {why}")
        if canary.exists():
            found["code run"] += 1
            tell(f"code run: {what}")
            canary.unlink()
        if (i + 1) % 100 == 0:
            tell(f"folders: {i + 1} of {number}")
    return found


def judged(
    work: Callable[[], tuple[int, Any, str]], wanted: tuple[int, Any], same: bool, again: Any = None
) -> tuple[str, str]:
    """Returns what is wrong with what a command did, one of the table's columns or nothing, and why.

    `again` is the other result that is right: that of a run that was made anew, as its folder had lost its name or its summary.
    """
    try:
        code, result, err = work()
    except Hang:
        return "hangs", f"more than {SECONDS} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        return "tracebacks", f"{type(error).__name__}: {error}"[:400]
    if faulty(code, err):
        return "tracebacks", err[-400:] or f"exit code {code}"
    if code == 0 and same and (code, result) != wanted and result != again:
        return "wrong bits", f"{str(result)[:300]} for {str(wanted[1])[:300]}"
    return "", ""
