"""`prune report`: results as a page, tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options, screen_tables
from .output import emit, emit_json
from .screen import Screen


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUNS...",
            help="Folders of runs, as `prune sweep` fills them, or single run folders.",
            autocompletion=options.run_folders,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Where the page, the tables and the figures go.", rich_help_panel=options.OUTPUT
        ),
    ] = Path("report"),
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of the studies recorded in RUNS, only this one.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw tables and figures of studies and runs, the papers' numbers beside ours.

    DIR/index.html holds everything and needs no network. Each table lies beside it as CSV and Markdown, each figure as SVG and
    PNG (with matplotlib: the extra `plot`). Combinations that have not been run are shown as missing.
    """
    from pruning.study.report import write_report

    told = write_report(runs, out, study)
    with Screen(quiet=quiet) as screen:
        missing = f", {told['missing']} missing" if told["missing"] else ""
        made = ", ".join(screen_tables.counted(len(told[kind]), kind[:-1]) for kind in ("tables", "figures"))
        screen.plain([f"{screen_tables.counted(told['runs'], 'result')}{missing}: {made}"])
        screen.plain(told["notes"])
    emit_json(told) if json else emit(told["page"])
