"""`prune export`: a run's network as plain weights, for other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pruning import plan

from . import options
from .formats import NONE, megabytes, percent
from .inputs import network_folder
from .output import emit, emit_json
from .screen import Screen
from .screen_tables import Table, pairs


def export(
    run: options.Run,
    format: Annotated[
        str, options.named(plan.ExportFormat, "What to write; hf is a folder for from_pretrained.", options.PLACE)
    ] = "safetensors",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The file to write, with hf the folder." + options.default("RUN with the format's ending"),
            rich_help_panel=options.PLACE,
        ),
    ] = None,
    trust_code: options.TrustCode = False,
    dry_run: Annotated[
        bool, options.flag("--dry-run", "Make and check it all; leave nothing.", options.OUTPUT)
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a run's network as plain weights that other libraries load: no masks, pruned weights as zeros.

    safetensors and torch hold the state dict under the network's own names, hf the folder that from_pretrained of
    transformers takes, onnx one file for batches of any size (extra: onnx).

    What was written is read back into a fresh network and must give the same outputs on an example before it is put in
    its place. The same command given again leaves the file; another file is never replaced.
    """
    from pruning import engine

    folder = network_folder(run)
    with Screen(quiet=quiet) as screen:
        made = engine.export_run(folder, format, out, trust_code=trust_code, dry_run=dry_run, tell=screen.tell)
    if json:
        emit_json(made)
        return
    screen.table(*_table(made))
    if dry_run:
        screen.plain([f"nothing was written; without --dry-run it goes to {made['path']}"])
    emit(made["path"])


def _table(made: Mapping[str, Any]) -> Table:
    zeros = f"{made['zeros']:,} of {made['pruned']:,} pruned weights" if made["pruned"] else NONE
    own = "" if made["sparsity"] is None else f"{percent(made['sparsity'])} of what is prunable, "
    values = {
        "path": made["path"] + (" (the same as before)" if made["unchanged"] else ""),
        "size": f"{megabytes(made['bytes'])} in {made['tensors']:,} tensors",
        "parameters": f"{made['nonzero']:,} of {made['params']:,} not zero",
        "sparsity": f"{own}{percent(made['model_sparsity'])} of all weights",
        "zeros kept": zeros,
        "largest difference": f"{made['difference']:.2g} of outputs on {made['examples']} examples",
        "to load it": made["loading"],
    }
    for side in ("inputs", "outputs"):
        if side in made:
            values[side] = ", ".join(f"{end['name']} {end['type']} {_shape(end['shape'])}" for end in made[side])
    return pairs(f"Exported {made['model']} as {made['format']}", values)


def _shape(sizes: list[Any]) -> str:
    return "x".join(map(str, sizes))
