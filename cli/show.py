"""`prune show`: a run's history, its layers and its learning curve."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

from pruning.record import runs

from . import curve, formats, options, screen_tables
from .flops import as_json, of_run
from .inputs import run_folder
from .output import emit, emit_json
from .screen import Screen


def show(
    run: options.Run,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Also show how many filters and neurons of each layer have a weight left, and which layers are gone.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the density of each layer to a .svg or .png file (extra: plot).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    trust_code: options.TrustCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show how a run came about, from dense to pruned to retrained, its layers and its learning curve."""
    from pruning import engine

    folder = run_folder(run)
    chain = runs.history(folder)
    history = [runs.read_summary(step) for step in chain]
    report = of_run(folder, trust_code=trust_code)
    found = engine.structure(folder, trust_code=trust_code) if layers else None
    if plot is not None:
        _draw(plot, history[-1])
    left = history[-1].get("unpruned") or []
    if json:
        more = {"structure": found} if layers else {}
        results = [runs.result(step) for step in history]
        emit_json(
            {"run": str(folder), "history": results, **as_json(report), "unpruned": left, "log": _log(chain), **more}
        )
        return
    screen = Screen(quiet=quiet)
    screen.table(*screen_tables.history(history))
    screen.table(*screen_tables.settings([runs.read_phase(step) for step in chain]))
    screen.table(*screen_tables.layers(report))
    screen.plain(screen_tables.left_dense(left, report))
    if found is not None:
        screen.table(*screen_tables.structure(found))
    log = _log(chain)
    width = min(60, screen.width - 10)
    validation = f"validation {formats.metric_name(history)}"
    for key, name in (("val_metric", validation), ("train_loss", "training loss")):
        values = [(record["phase"], record.get(key, record.get(key.replace("metric", "accuracy")))) for record in log]
        points = [(phase, value) for phase, value in values if isinstance(value, (int, float))]
        if len(points) > 1:
            spans = [f"{phase} {sum(1 for _ in group)}" for phase, group in itertools.groupby(p for p, _ in points)]
            title = f"{name} after each epoch ({', '.join(spans)})"
            screen.plain([title, *curve.plot([value for _, value in points], width, braille=screen.unicode), ""])
    emit(folder)


def _draw(path: Path, summary: dict[str, Any]) -> None:
    """Draws the density of each layer, as Frankle et al. 2021, Figure 11."""
    from pruning.study.report.figures import Figure, Line, Panel, save

    layers = summary["layers"]
    shares = [100 * kept / total for kept, total in layers.values()]
    line = Line("each layer", range(len(shares)), shares)
    level = ("all layers", 100 * (1 - summary["sparsity"]))
    step = -(-len(shares) // 28)
    ticks = [(i, name.removesuffix(".weight")) for i, name in enumerate(layers) if i % step == 0]
    title = f"Density of each layer of {Path(summary['run']).name}"
    save(Figure("layers", title, "layer", "weights kept (%)", [Panel([line], "", level, bars=True)], ticks=ticks), path)


def _log(chain: list[Path]) -> list[dict[str, Any]]:
    return [{"phase": runs.read_phase(folder).phase, **record} for folder in chain for record in runs.log(folder)]
