"""The papers' own numbers beside ours, with the difference in units of the spread.

pruning/studies/reported/*.csv hold one number a line, with the page, table and row that it was read from:
paper, page, table, row, study, series, sparsity, retrain_epochs, cycles, metric, statistic, value, spread, n, note.
`retrain_epochs` is a number, `best` over retraining times, or empty where the study has one only. Accuracies are in percent.
Sparsity 0 is a dense network: that of the line's runs, or with series `dense` of all. `dead_neurons` is the percentage of neurons
and filters with no weight left, the output layer's aside.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from importlib import resources

from pruning.record import runs
from pruning.study.report.groups import Group, envelope, series, tuned
from pruning.study.report.rows import Section
from pruning.study.report.tables import MISSING, Table
from pruning.study.spread import spread

COLUMNS = ("paper", "page", "table", "row", "study", "series", "sparsity", "retrain_epochs", "cycles", "metric", "statistic",
           "value", "spread", "n", "note")  # fmt: skip
FACTOR = {"accuracy": 100.0, "speedup": 1.0, "dead_neurons": 1.0}
DENSE = "dense"
INSIDE, NEAR = 1.0, 2.0  # spreads


@dataclass(frozen=True)
class Reported:
    """One number of a paper."""

    source: str
    study: str
    series: str
    sparsity: float
    retrain_epochs: str
    cycles: int | None
    metric: str
    value: float
    spread: float | None
    n: str


def load() -> dict[str, list[Reported]]:
    """Returns all reported numbers by study."""
    found: dict[str, list[Reported]] = {}
    folder = resources.files("pruning.study.studies").joinpath("reported")
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".csv"):
            continue
        for line in csv.DictReader(file.read_text().splitlines()):
            source = (
                f"{line['paper']}, {line['table']}, p. {line['page']}"
                if line["page"]
                else f"{line['paper']}, {line['table']}"
            )
            number = Reported(
                source, line["study"], line["series"], float(line["sparsity"]), line["retrain_epochs"],
                int(line["cycles"]) if line["cycles"] else None, line["metric"], float(line["value"]),
                float(line["spread"]) if line["spread"] else None, line["n"],
            )  # fmt: skip
            found.setdefault(number.study, []).append(number)
    return found


def compare(section: Section, numbers: list[Reported]) -> Table | None:
    """Returns reported beside reproduced, or None where the papers report nothing for the study.

    The difference is ours minus reported; its unit is the root of the summed squares of the two spreads, where either is known:
    standard deviations, or half of min to max. Inside one unit counts as agreement, beyond two as outside.
    """
    if not numbers:
        return None
    exact, bests = tuned(section), envelope(section)
    rows: list[list[str]] = []
    marks: dict[tuple[int, int], str] = {}
    for number in numbers:
        pool = bests if number.retrain_epochs == "best" else exact
        group = next((group for group in pool if _matches(group, number)), None)
        if number.sparsity == 0:
            found = spread(_dense(section, number), section.convention)
        else:
            found = spread(_values(group, number.metric), section.convention) if group else None
        scale = FACTOR[number.metric]
        theirs = f"{number.value:g}" + (f" ± {number.spread:g}" if number.spread is not None else "")
        place = [
            number.series,
            f"{100 * number.sparsity:.2f}",
            number.retrain_epochs,
            str(number.cycles or ""),
            number.metric,
        ]
        if found is None:
            ours, difference, units = MISSING, "", None
        else:
            half = scale * found.half
            ours = f"{scale * found.middle:.2f}" + (f" ± {half:.2f}" if half else "") + f" (n = {found.n})"
            delta = scale * found.middle - number.value
            unit = math.hypot(number.spread or 0.0, half)
            units = delta / unit if unit else None
            difference = f"{delta:+.2f}"
        rows.append(
            [*place, theirs, number.n, ours, difference, "" if units is None else f"{units:+.1f}", number.source]
        )
        if units is not None:
            i = len(rows) - 1
            mark = "inside" if abs(units) <= INSIDE else "near" if abs(units) <= NEAR else "outside"
            marks |= {(i, 8): mark, (i, 9): mark}
    columns = ["", "sparsity %", "retraining epochs", "cycles", "metric", "reported", "reported n", "ours", "difference",
               "in spreads", "source"]  # fmt: skip
    note = "Difference: ours minus reported. Its unit: the root of the summed squares of both spreads, where one is known. "
    note += "Green: within one; yellow: within two; red: outside."
    return Table("reported", "Reported and reproduced", columns, rows, note, marks)


def _dense(section: Section, number: Reported) -> list[float]:
    """Returns the values of the dense networks that the line's runs began with."""
    rows = [row for row in section.rows if row.summary is not None and number.series in (DENSE, series(row))]
    roots = {root: runs.read_summary(root) for row in rows if runs.is_done(root := runs.history(row.folder)[0])}
    return [float(summary[number.metric]) for summary in roots.values() if not summary["sparsity"]]


def _values(group: Group, metric: str) -> list[float]:
    if metric != "dead_neurons":
        return group.values(metric)
    shares = []
    for summary in group.done:
        layers = list(((summary.get("neurons") or {}).get("dead") or {}).values())[:-1]
        if layers:
            shares.append(100 * sum(dead for dead, _ in layers) / sum(number for _, number in layers))
    return shares


def _matches(group: Group, number: Reported) -> bool:
    if group.series != number.series or abs(group.sparsity - number.sparsity) > 5e-4:
        return False
    if number.retrain_epochs not in ("", "best") and float(number.retrain_epochs) != group.retrain_epochs:
        return False
    return number.cycles is None or number.cycles == group.cycles
