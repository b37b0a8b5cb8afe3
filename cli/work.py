"""Carrying phases out: the part that train, prune, retrain, iterate and run share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.plan import PHASES, Phase, Plan
from pruning.record import runs

from . import tables
from .output import emit, emit_json
from .show import Screen


def carry_out(
    work: Plan | Sequence[Phase],
    parent: Path | None,
    out: Path,
    *,
    dry_run: bool,
    track: str | None,
    json: bool,
    quiet: bool,
    **where: Any,
) -> None:
    """Carries out a plan, or phases each on the one before, and prints the last run; or shows what would be done.

    `where` holds the engine's keywords device, data_dir and trust_code.
    """
    from pruning import engine

    phases = list(work.phases if isinstance(work, Plan) else work)
    if dry_run:
        rows = engine.preview(phases, parent, out, **where)
        if json:
            emit_json({"phases": rows})
            return
        screen = Screen(quiet=quiet)
        screen.table(*tables.preview(rows))
        screen.table(*tables.settings([PHASES[row["phase"]](**row["settings"]) for row in rows]))
        emit(rows[-1]["run"])
        return
    with Screen(quiet=quiet, phases=len(phases)) as screen:
        folders = engine.run(phases, out, parent, tell=screen.tell, track=track, **where)
    if json:
        emit_json(runs.result(runs.read_summary(folders[-1])))
        return
    if len(folders) > 1:
        steps = folders if parent is None else [parent, *folders]
        screen.table(*tables.comparison([runs.read_summary(folder) for folder in steps]))
    emit(folders[-1])
