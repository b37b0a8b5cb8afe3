"""Carrying phases out: the part that train, prune, retrain, iterate and run share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning import runs
from pruning.plan import Prune, Retrain, Train

from . import tables
from .output import emit, emit_json
from .show import Screen


def carry_out(
    phases: Sequence[Train | Prune | Retrain],
    parent: Path | None,
    out: Path,
    *,
    dry_run: bool,
    track: str | None,
    json: bool,
    quiet: bool,
    **where: Any,
) -> None:
    """Carries the phases out, each on the one before, and prints the last run; or shows what would be done.

    `where` holds the engine's keywords device, data_dir and trust_code.
    """
    from pruning import engine

    with Screen(quiet=quiet, phases=len(phases)) as screen:
        if dry_run:
            rows = engine.preview(list(phases), parent, out, **where)
            screen.table(*tables.preview(rows))
            emit_json({"phases": rows}) if json else emit(rows[-1]["run"])
            return
        done = []
        for phase in phases:
            parent = engine.advance(phase, parent, out, tell=screen.tell, track=track, **where)
            done.append(runs.read_summary(parent))
        if len(done) > 1:
            screen.table(*tables.comparison(done))
    emit_json(runs.result(done[-1])) if json else emit(done[-1]["run"])
