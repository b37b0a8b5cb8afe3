"""`prune verify`: which runs are whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from pruning.plan import PlanError

from . import options, screen_tables
from .output import emit, emit_json
from .screen import Screen


def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Run folders, or folders of runs.", autocompletion=options.run_folders),
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Check whether runs are whole: settings under their digest, and every file as the run ended with it.

    A run is whole, unfinished, damaged, or orphaned where a run before it is missing. Nothing is changed and no code is loaded. The
    exit code is 1 where a run is damaged or orphaned.
    """
    from pruning.record.verify import STATES, verify_all

    found = verify_all(paths)
    counts = Counter(entry.state for entry in found)
    if json:
        rows = [{"run": str(entry.run), "state": entry.state, "why": entry.why} for entry in found]
        emit_json({"runs": rows, **{state: counts[state] for state in STATES}})
    else:
        screen = Screen(quiet=quiet)
        screen.table(*screen_tables.verified(found))
        emit(", ".join(f"{counts[state]} {state}" for state in STATES))
    if bad := [entry for entry in found if entry.state in ("damaged", "orphaned")]:
        raise PlanError(
            f"{len(bad)} of {screen_tables.counted(len(found), 'run')} {'is' if len(bad) == 1 else 'are'} damaged or orphaned; "
            f"the first is '{bad[0].run}': {bad[0].why}"
        )
