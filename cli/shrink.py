"""`prune shrink`: a smaller dense network, without the filters that a run has pruned."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from . import options, screen_tables
from .inputs import run_folder
from .output import emit, emit_json
from .screen import Screen


def shrink(
    run: options.Run,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder to write." + options.default("RUN with -shrunk behind it"),
            rich_help_panel=options.PLACE,
        ),
    ] = None,
    library: Annotated[
        bool,
        typer.Option(
            "--library",
            help="Let torch-pruning (extra: structured) find out what belongs together: for networks that torch.fx does "
            "not trace, and for the widths of residual ways.",
            rich_help_panel=options.PLACE,
        ),
    ] = False,
    trust_code: options.TrustCode = False,
    dry_run: Annotated[
        bool, options.flag("--dry-run", "Show what would be removed; write nothing.", options.OUTPUT)
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Remove pruned filters for real: write a smaller dense network that computes the same.

    The folder holds weights.safetensors and shrink.json: what was removed, and how much the outputs on random images
    differ from the pruned run's. `pruning.engine.load_shrunk` builds the network from it.
    """
    from pruning import engine

    source = run_folder(run)
    if dry_run:
        folder = to or source.with_name(f"{source.name}-shrunk")
        if folder.exists():
            engine.read_shrunk(folder)  # refuses what is no shrunk network
        with tempfile.TemporaryDirectory() as aside:
            made = engine.shrink_run(source, Path(aside) / "shrunk", library=library, trust_code=trust_code)
            record = engine.read_shrunk(made)
    else:
        folder = engine.shrink_run(source, to, library=library, trust_code=trust_code)
        record = engine.read_shrunk(folder)
    if json:
        emit_json({**record, "folder": folder})
        return
    screen = Screen(quiet=quiet)
    screen.table(*screen_tables.shrunk(record))
    if dry_run:
        screen.plain([f"nothing was written; without --dry-run the network goes to {folder}/"])
    emit(folder)
