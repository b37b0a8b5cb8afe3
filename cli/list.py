"""`prune list`: everything that can be named, with a line on each, and the runs that lie in a folder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pruning import plan
from pruning.plan import PlanError, suggest
from pruning.registry import table
from pruning.study import sweep

from . import options, screen_tables
from .output import emit, emit_json
from .screen import Screen
from .where import found_runs

KINDS = (
    "models",
    "data",
    "criteria",
    "allocations",
    "techniques",
    "schedules",
    "methods",
    "ablations",
    "optimizers",
    "tasks",
    "recipes",
    "studies",
)


def list_kinds(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help=f"One of: {', '.join(KINDS)}, runs." + options.default("all but runs"),
            autocompletion=options.complete([*KINDS, "runs"]),
        ),
    ] = None,
    part: Annotated[str | None, typer.Argument(metavar="PART", help="Of these, those whose name holds this.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Of runs, those whose result fits; also with !=, <, <=, > and >=. Repeatable.",
            rich_help_panel="Runs",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder whose runs are listed.", rich_help_panel="Runs")
    ] = Path("runs"),
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List what can be named, with a line on each, or the runs in a folder, the oldest first.

    When standard output is no terminal, the names go there, one per line.
    """
    if kind not in (None, *KINDS, "runs"):
        known = [*KINDS, "runs"]
        raise PlanError(f"kind '{kind}' is unknown{suggest(str(kind), known)}; allowed: {', '.join(known)}")
    if where and kind != "runs":
        raise typer.BadParameter("--where is for `prune list runs`")
    if kind == "runs":
        found = {"runs": found_runs(out, where or [])}
    else:
        found = {name: _entries(name) for name in KINDS if kind in (None, name)}
    if part is not None:
        every = [entry["name"] for entries in found.values() for entry in entries]
        found = {name: [entry for entry in entries if part in entry["name"]] for name, entries in found.items()}
        if not any(found.values()):
            raise PlanError(f"none of the {kind or 'names'} holds '{part}'{suggest(part, every)}")
    if json:
        emit_json(found)
        return
    screen = Screen(quiet=quiet)
    for name, entries in found.items():
        screen.table(*(screen_tables.listing(entries, out) if name == "runs" else screen_tables.names(name, entries)))
    if not screen.stdout_is_terminal:
        for entry in itertools.chain.from_iterable(found.values()):
            emit(entry.get("run") or entry["name"])


def _entries(kind: str) -> list[dict[str, Any]]:
    if kind == "studies":
        return [{"name": name, "summary": _study_line(sweep.load_study(name))} for name in sweep.study_names()]
    if kind == "recipes":
        return [{"name": name, "summary": plan.load_plan(name).summary} for name in plan.recipe_names()]
    return [{"name": name, "summary": summary} for name, summary in _registry(kind).items()]


def _study_line(study: sweep.Study) -> str:
    lacking = sweep.missing(study)
    return study.title + (f" (not supported yet: {', '.join(lacking)})" if lacking else "")


def _registry(kind: str) -> Mapping[str, str]:
    from pruning import data, models

    if kind in ("models", "data"):
        return models.MODELS if kind == "models" else data.DATASETS
    return {name: entry.summary for name, entry in table(TABLES[kind]).items()}


TABLES = {
    "criteria": "criterion",
    "allocations": "allocation",
    "techniques": "technique",
    "schedules": "retraining schedule",
    "methods": "method",
    "ablations": "ablation",
    "optimizers": "optimizer",
    "tasks": "task",
}
