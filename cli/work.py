"""Carrying phases out: the part that train, prune, retrain, iterate and run share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from pruning.plan import PHASES, Phase, Plan
from pruning.record import runs

from . import screen_tables
from .output import emit, emit_json
from .screen import Screen
from .shared import Shared


def refuse_dry_download(dry_run: bool, download: bool) -> None:
    """Raises a usage error where files are asked for and nothing may be written."""
    if dry_run and download:
        raise typer.BadParameter("--download writes files and --dry-run writes nothing: give one of them")


def carry_out(work: Plan | Sequence[Phase], parent: Path | None, out: Path, shared: Shared) -> None:
    """Carries out a plan, or phases each on the one before, and prints the last run; or shows what would be done."""
    from pruning import engine

    phases = list(work.phases if isinstance(work, Plan) else work)
    refuse_dry_download(shared.dry_run, shared.download)
    if shared.dry_run:
        rows = engine.preview(phases, parent, out, **shared.where)
        if shared.json:
            emit_json({"phases": rows})
            return
        screen = Screen(quiet=shared.quiet)
        screen.table(*screen_tables.preview(rows))
        screen.table(*screen_tables.settings([PHASES[row["phase"]](**row["settings"]) for row in rows]))
        emit(rows[-1]["run"])
        return
    with Screen(quiet=shared.quiet, phases=len(phases)) as screen:
        folders = engine.run(phases, out, parent, tell=screen.tell, track=shared.track, **shared.where)
    if shared.json:
        emit_json(runs.result(runs.read_summary(folders[-1])))
        return
    if len(folders) > 1:
        steps = folders if parent is None else [parent, *folders]
        screen.table(*screen_tables.comparison([runs.read_summary(folder) for folder in steps]))
    emit(folders[-1])
