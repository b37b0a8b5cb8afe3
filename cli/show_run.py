"""`prune show`: a run's history, its layers and its learning curve."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pruning import runs

from . import curve, options, tables
from .flops import as_json, of_run
from .inputs import run_folder
from .output import emit, emit_json
from .show import Screen

CURVES = (("val_accuracy", "validation accuracy"), ("train_loss", "training loss"))


def show_run(
    run: options.Run,
    trust_code: options.TrustCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show how a run came about, from dense to pruned to retrained, its layers and its learning curve."""
    folder = run_folder(run)
    chain = runs.history(folder)
    history = [runs.read_summary(step) for step in chain]
    report = of_run(folder, trust_code=trust_code)
    if json:
        layers = as_json(report)
        emit_json(
            {"run": str(folder), "history": [runs.result(step) for step in history], **layers, "log": _log(chain)}
        )
        return
    screen = Screen(quiet=quiet)
    screen.table(*tables.history(history))
    screen.table(*tables.settings([runs.read_phase(step) for step in chain]))
    screen.table(*tables.layers(report))
    log = _log(chain)
    for key, name in CURVES:
        points = [(record["phase"], record[key]) for record in log if isinstance(record.get(key), (int, float))]
        if len(points) > 1:
            spans = [f"{phase} {sum(1 for _ in group)}" for phase, group in itertools.groupby(p for p, _ in points)]
            title = f"{name} after each epoch ({', '.join(spans)})"
            screen.plain([title, *curve.plot([value for _, value in points], braille=screen.unicode), ""])
    emit(folder)


def _log(chain: list[Path]) -> list[dict[str, Any]]:
    return [{"phase": runs.read_phase(folder).phase, **record} for folder in chain for record in runs.log(folder)]
