"""The runs under a folder, and `--where`: those whose result fits."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pruning import plan
from pruning.plan import PlanError, suggest
from pruning.record import runs

from .formats import metric, sparsity

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


def found_runs(out: Path, conditions: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the runs under a folder that fit all conditions: name, summary, done and the keys of a result."""
    if not out.is_dir():
        raise PlanError(f"folder '{out}' does not exist: --out names the folder whose runs are listed")
    rows = [_row(row) for row in runs.listing(out)]
    for condition in conditions:
        key, sign, text = _parsed(condition)
        rows = [row for row in rows if _fits(row[key], sign, text)]
    return rows


def _row(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("error"):
        line = row["error"]
    elif row["done"]:
        line = f"{row.get('metric_name') or 'accuracy'} {metric(row)}, sparsity {sparsity(row)}"
    else:
        line = "unfinished"
    return {
        "name": Path(row["run"]).name,
        "summary": line,
        "done": row["done"],
        "parent": row.get("parent"),
        **runs.result(row),
    }


def _parsed(condition: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", condition)
    if not match:
        raise PlanError(f"--where takes KEY=VALUE (or !=, <, <=, >, >=), not '{condition}'")
    key, sign, text = match.groups()
    known = ("name", "done", "parent", *runs.RESULT_KEYS)
    if key not in known:
        raise PlanError(f"--where: key '{key}' is unknown{suggest(key, known)}; allowed: {', '.join(known)}")
    return key, sign, text


def _fits(value: Any, sign: str, text: str) -> bool:
    wanted = plan.parse_value(text)
    if isinstance(value, str) or value is None:
        wanted = None if text in ("none", "null") else text
    comparable = isinstance(value, (int, float)) and isinstance(wanted, (int, float))
    if sign in ("=", "!=") or comparable:
        return COMPARE[sign](value, wanted)
    return False
