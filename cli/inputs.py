"""What a command was given, made ready: run folders from arguments or standard input, settings from flags and --set."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pruning import plan, runs
from pruning.plan import PlanError, suggest


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
    return runs.check_run(path)


def _from_stdin() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise PlanError(
            "RUN is -, but standard input is a terminal: pipe a command into this one, or name a run folder"
        )
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


def given(**flags: Any) -> dict[str, Any]:
    """Returns the flags that were given: those that are not None."""
    return {key: value for key, value in flags.items() if value is not None}


def merged(flags: dict[str, Any], pairs: Iterable[str] | None) -> dict[str, Any]:
    """Returns the settings of flags and of --set; raises PlanError where both give the same one."""
    changes = plan.parse_set(pairs or ())
    for key in flags.keys() & changes.keys():
        raise PlanError(f"'{key}' is given by --{key.replace('_', '-')} and by --set")
    return {**flags, **changes}


def shape(text: str) -> tuple[int, ...]:
    """Returns (3, 32, 32) for `3x32x32`."""
    parts = text.lower().split("x")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise PlanError(f"input '{text}' is no shape; write channels x height x width, such as 3x32x32")
    return tuple(int(part) for part in parts)
