"""A section's tables, each as CSV, as Markdown and as HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from pruning.plan.lengths import counted
from pruning.study.report.groups import Group, by_series, envelope, groups, tuned
from pruning.study.report.rows import EPOCHS, Section
from pruning.study.spread import Spread, spread

MISSING = "missing"
STATISTIC = {"median": "median (min to max)", "mean": "mean ± sample standard deviation"}


@dataclass(frozen=True)
class Table:
    """A table; `marks` holds a class, for colour, of cells by (row, column)."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    marks: dict[tuple[int, int], str] = field(default_factory=dict)

    def csv(self) -> str:
        """Returns the table as CSV."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.columns, *self.rows])
        return buffer.getvalue()

    def markdown(self) -> str:
        """Returns the table as Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"{self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def html(self) -> str:
        """Returns the table as HTML, to be scrolled sideways where the screen is narrow."""
        head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in self.columns)
        rows = []
        for i, row in enumerate(self.rows):
            cells = []
            for j, cell in enumerate(row):
                mark = self.marks.get((i, j)) or ("missing" if cell == MISSING else "")
                kind = f' class="{mark}"' if mark else ""
                tag = "th" if j == 0 else "td"
                scope = ' scope="row"' if j == 0 else ""
                cells.append(f"<{tag}{scope}{kind}>{html.escape(cell)}</{tag}>")
            rows.append(f"<tr>{''.join(cells)}</tr>")
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        caption = f"<caption>{html.escape(self.title)}</caption>"
        label = html.escape(self.title, quote=True)
        return (
            f'<div class="table" tabindex="0" role="region" aria-label="{label}"><table>{caption}<thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
        )


def percent(value: float, digits: int = 2) -> str:
    """Returns 0.9312 as `93.12`."""
    return f"{100 * value:.{digits}f}"


def written(found: Spread | None, convention: str, scale: float = 100.0) -> str:
    """Returns values times `scale` as `93.12 (92.80 to 93.40)` or `93.12 ± 0.20`; `missing` where there is none."""
    if found is None:
        return MISSING
    middle, low, high, half = (f"{scale * value:.2f}" for value in (found.middle, found.low, found.high, found.half))
    return f"{middle} ({low} to {high})" if convention == "median" else f"{middle} ± {half}"


def seeds_counted(group: Group) -> str:
    """Returns n, and of how many where some are missing."""
    n = len(group.done)
    return str(n) if n == group.expected else f"{n} of {group.expected}"


def results(section: Section) -> Table:
    """Returns one line per combination."""
    metric = section.metric
    columns = ["", "sparsity %", "density %", "compression", "retraining epochs", "cycles", "n",
               f"test {metric.name}{metric.unit}", f"validation {metric.name}{metric.unit}", "theoretical speedup",
               "sparse MACs"]  # fmt: skip
    with_choice = any(axis not in EPOCHS for axis in section.best_over)
    rows = []
    for group in tuned(section):
        test = spread(group.values("metric"), section.convention)
        validation = spread(group.values("val_metric"), section.convention)
        speedup = spread(group.values("speedup"), section.convention)
        macs = spread(group.values("sparse_macs"), section.convention)
        rows.append(
            [
                group.series + (f" ({group.chosen})" if with_choice and group.chosen else ""),
                percent(group.sparsity),
                percent(1 - group.sparsity),
                f"{1 / (1 - group.sparsity):.2f}",
                str(group.retrain_epochs),
                str(group.cycles),
                seeds_counted(group),
                written(test, section.convention, metric.scale),
                "" if validation is None else written(validation, section.convention, metric.scale),
                "" if speedup is None else f"{speedup.middle:.2f} ({speedup.low:.2f} to {speedup.high:.2f})",
                "" if macs is None else f"{macs.middle:,.0f}",
            ]
        )
    several = "Accuracies" if metric.name == "accuracy" else f"Values of {metric.name}"
    note = f"{several}: {STATISTIC[section.convention]} over n seeds. Speedup: dense over nonzero MACs, counted, not timed."
    return Table("results", "Results", columns, rows, note)


def matrix(section: Section) -> Table:
    """Returns the test metric by line and by sparsity and retraining time, missing combinations marked."""
    found = tuned(section)
    places = sorted({(g.sparsity, g.cycles, g.retrain_epochs) for g in found})
    several = {"epochs": len({p[2] for p in places}) > 1, "cycles": len({p[1] for p in places}) > 1}
    columns = [""]
    for sparsity, cycles, epochs in places:
        more = [counted(cycles, "cycle")] * several["cycles"] + [counted(epochs, "epoch")] * several["epochs"]
        columns.append(", ".join([f"{percent(sparsity, 2)} %", *more]))
    rows = []
    for name, members in by_series(found).items():
        at = {(g.sparsity, g.cycles, g.retrain_epochs): g for g in members}
        cells = []
        for place in places:
            group = at.get(place)
            value = spread(group.values("metric"), section.convention) if group else None
            text = written(value, section.convention, section.metric.scale)
            cells.append(text if value is None or group is None else f"{text}, n = {seeds_counted(group)}")
        rows.append([name, *cells])
    return Table(
        section.metric.name.replace(" ", "-"),
        f"Test {section.metric.name}{section.metric.unit} by sparsity",
        columns,
        rows,
    )


def best_table(section: Section) -> Table:
    """Returns, for each line and sparsity, the best over the retraining time as validation tells, and its test metric."""
    rows = [
        [
            group.series,
            percent(group.sparsity),
            f"{1 / (1 - group.sparsity):.2f}",
            group.chosen,
            seeds_counted(group),
            written(spread(group.values("metric"), section.convention), section.convention, section.metric.scale),
        ]
        for group in envelope(section)
    ]
    columns = [
        "",
        "sparsity %",
        "compression",
        "chosen by validation",
        "n",
        f"test {section.metric.name}{section.metric.unit}",
    ]
    return Table("best", "Best over retraining times", columns, rows)


def runs_table(section: Section) -> Table:
    """Returns one line per run, as numbers, for other programs."""
    keys = ("accuracy", "val_accuracy", "metric", "val_metric", "loss",
            "sparsity", "compression", "speedup", "macs", "sparse_macs", "params", "nonzero",
            "epochs", "seconds", "images_per_second", "device", "backend", "model_sparsity")  # fmt: skip
    axes = list(section.axes)
    rows = []
    for row in section.rows:
        summary = row.summary or {}
        values = ["" if summary.get(key) is None else str(summary[key]) for key in keys]
        labels = [str(row.labels.get(axis, "")) for axis in axes]
        rows.append([row.run, str(row.seed), *labels, str(row.sparsity), str(row.retrain_epochs), *values])
    return Table("runs", "Runs", ["run", "seed", *axes, "goal_sparsity", "retrain_epochs", *keys], rows)


def varies(section: Section, key: str) -> bool:
    """Returns whether the groups differ in `sparsity`, `retrain_epochs` or `cycles`."""
    return len({getattr(group, key) for group in groups(section)}) > 1
