"""`prune sweep --cost`: what a study costs before it is started, as a table or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruning.plan import PlanError
from pruning.record import runs
from pruning.study import sweep
from pruning.study.sweep.cost import Cost, cost

from .formats import duration
from .output import emit_json
from .screen import Screen

UNKNOWN = "not known"


def show_cost(
    name: str,
    points: int,
    graph: sweep.Graph,
    out: Path,
    throughput: str | None,
    images: int | None,
    json: bool,
    quiet: bool,
) -> None:
    """Shows what the phases that are not done cost; trains and writes nothing."""
    speed = None if throughput is None else _throughput(throughput)
    done = [folder for folder in graph.nodes if runs.is_done(out / folder)]
    found = cost(graph, done, images)
    if json:
        emit_json(
            {
                "study": name,
                "runs": points,
                "throughput": speed,
                **{kind: _facts(c, speed) for kind, c in found.items()},
            }
        )
        return
    rows = [[kind, *_row(costs, speed)] for kind, costs in found.items()]
    columns = ["", "phases", "done", "epochs left", "training images left", "time left, one phase at a time"]
    with Screen(quiet=quiet) as screen:
        screen.table(f"Cost of study {name}, {points:,} runs", columns if speed else columns[:-1], rows)
    if any(costs.images is None for costs in found.values()):
        with Screen(quiet=quiet) as screen:
            screen.plain(["the size of the data set is not known: give its training images by --images"])


def _throughput(given: str) -> float:
    """Returns training images a second: a number, or those that a finished run measured."""
    try:
        speed = float(given)
    except ValueError:
        run = runs.check_run(Path(given))
        measured = runs.read_summary(run).get("images_per_second") if runs.is_done(run) else None
        if measured is None:
            raise PlanError(
                f"run '{given}' has measured no images a second: give a finished training or a number"
            ) from None
        return float(measured)
    if not 0 < speed < float("inf"):
        raise PlanError(f"--throughput must be above 0 images a second, not {given}")
    return speed


def _facts(costs: Cost, speed: float | None) -> dict[str, Any]:
    hours = {} if speed is None else {"hours": costs.hours(speed)}
    return {"phases": costs.phases, "done": costs.done, "epochs": costs.epochs, "images": costs.images, **hours}


def _row(costs: Cost, speed: float | None) -> list[str]:
    cells = [f"{costs.phases:,}", f"{costs.done:,}"]
    cells.append(
        UNKNOWN if costs.epochs is None else f"{costs.epochs:,.6g}" if costs.epochs < 1e6 else f"{costs.epochs:,.0f}"
    )
    cells.append(UNKNOWN if costs.images is None else f"{costs.images:,.0f}")
    if speed is not None:
        hours = costs.hours(speed)
        cells.append(UNKNOWN if hours is None else duration(3600 * hours))
    return cells
