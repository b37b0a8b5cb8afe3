"""What a command was given, made ready: run folders from arguments or standard input, settings from flags and --set."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pruning import plan
from pruning.plan import PlanError, suggest
from pruning.record import runs
from pruning.record.stamp import coded
from pruning.record.trust import allow_file


def run_folder(text: str) -> Path:
    """Returns the folder of a finished run, given as a path or, for `-`, as the first line of standard input."""
    path = Path(_from_stdin() if text == "-" else text)
    if not path.exists():
        near = [
            str(folder)
            for place in (path.parent, Path("runs"))
            for folder in sorted(place.glob("*"))
            if runs.is_run(folder)
        ]
        raise PlanError(f"run '{path}' does not exist{suggest(str(path), near) or suggest(f'runs/{path}', near)}")
    runs.read_summary(path)  # refuses what is no run, unfinished or damaged, before the engine is loaded
    return path


def network_folder(text: str) -> Path:
    """Returns what :func:`run_folder` does, or the folder of a shrunk network."""
    path = Path(_from_stdin() if text == "-" else text)
    return path if (path / "shrink.json").is_file() else run_folder(str(path))


def _from_stdin() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise PlanError(
            "RUN is -, but standard input is a terminal: pipe a command into this one, or name a run folder"
        )
    # Loaded while the command before this one works, not after it: 2 s less for every stage of a pipeline.
    importlib.import_module("pruning.engine")
    line = sys.stdin.readline().strip()
    if not line:
        raise PlanError("RUN is -, but standard input is empty: the command before this one gave no run")
    if not line.startswith("{"):
        return line
    try:
        run = json.loads(line).get("run")
    except ValueError:
        raise PlanError("RUN is -, but standard input is neither a path nor a JSON object") from None
    if not isinstance(run, str):
        raise PlanError("RUN is -, but the JSON object on standard input has no key 'run'")
    return run


def load_plan(name: str, trust_code: bool) -> plan.Plan:
    """Returns the plan of a recipe's name or a TOML file; code that a file names must have been allowed."""
    found = plan.load_plan(name)
    if name.endswith(".toml"):
        allow_file((code for phase in found.phases for code in coded(phase).values()), f"plan '{name}'", trust_code)
    return found


def length(text: str | None) -> Any:
    """Returns what a length on the command line says: a number of epochs, or the text of one in steps."""
    return None if text is None else plan.parse_value(text)


def given(**flags: Any) -> dict[str, Any]:
    """Returns the flags that were given: those that are not None."""
    return {key: value for key, value in flags.items() if value is not None}


def merged(flags: dict[str, Any], pairs: Iterable[str] | None) -> dict[str, Any]:
    """Returns the settings of flags and of --set; raises PlanError where both give the same one."""
    changes = plan.parse_set(pairs or ())
    for key in flags.keys() & changes.keys():
        flag = key.rpartition(".")[-1].replace("_", "-")
        raise PlanError(f"'{key}' is given by --{flag} and by --set")
    return {**flags, **changes}


def layer_rates(path: Path | None) -> dict[str, float] | None:
    """Returns {name or pattern: density} of a TOML or JSON file, the names of nested tables joined by dots."""
    if path is None:
        return None
    try:
        text = path.read_text()
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise PlanError(f"layer rates '{path}' cannot be read: {error}") from None
    rates = _flat(table) if isinstance(table, dict) else {}
    wrong = [name for name, rate in rates.items() if isinstance(rate, bool) or not isinstance(rate, int | float)]
    if not rates or wrong:
        what = f"'{wrong[0]}' is {rates[wrong[0]]!r}" if wrong else "it has none"
        raise PlanError(f"layer rates '{path}' must hold a density for each layer, name = 0.1; {what}")
    return rates


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        out.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return out


def shape(text: str) -> tuple[int, ...]:
    """Returns (3, 32, 32) for `3x32x32`."""
    parts = text.lower().split("x")
    if not all(re.fullmatch("[0-9]{1,7}", part) and int(part) for part in parts):
        raise PlanError(f"input '{text[:40]}' is no shape; write channels x height x width, such as 3x32x32")
    return tuple(int(part) for part in parts)
