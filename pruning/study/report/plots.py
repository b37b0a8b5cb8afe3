"""A section's figures: which lines in which panels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pruning.record import runs
from pruning.study.report.figures import Figure, Line, Panel
from pruning.study.report.groups import Group, best, by_series, envelope, tuned
from pruning.study.report.rows import EPOCHS, Section
from pruning.study.report.tables import percent
from pruning.study.spread import Spread, spread

ACCURACY = "test accuracy (%)"
PANELS = 6  # at most; more are thinned out evenly


def figures(section: Section) -> list[Figure]:
    """Returns the figures that the section's data can fill, those that its study names first."""
    found = {name: figure for name, make in FIGURES.items() if (figure := make(section)) is not None}
    first = [found.pop(name) for name in section.figures if name in found]
    return [*first, *found.values()]


def _line(name: str, members: Sequence[Group], x: Callable[[Group], float | None], y: str, section: Section) -> Line:
    scale = 100.0 if y == "accuracy" else 1.0
    points = []
    for group in members:
        value, place = spread(group.values(y), section.convention), x(group)
        if value is not None and place is not None:
            points.append((place, value.middle * scale, value.low * scale, value.high * scale, value.n))
    points.sort()
    columns = list(zip(*points, strict=True)) or [()] * 5
    return Line(name, *columns)


def _through(name: str, x: Iterable[float], values: Sequence[Spread]) -> Line:
    return Line(name, list(x), [v.middle for v in values], [v.low for v in values], [v.high for v in values])


def _dense(section: Section) -> tuple[str, float] | None:
    """Returns the dense networks' accuracy, where they are all of one network and data set."""
    found = [summary for summary in section.dense if not summary["sparsity"]]
    if len({(summary["model"], summary["data"]) for summary in found}) != 1:
        return None
    middle = spread([summary["accuracy"] for summary in found], section.convention)
    return None if middle is None else (f"dense (n = {middle.n})", 100 * middle.middle)


def _speedup(group: Group) -> float | None:
    found = spread(group.values("speedup"), "mean")
    return None if found is None else found.middle


def _panels_by(found: Sequence[Group], key: Callable[[Group], Any]) -> list[tuple[Any, list[Group]]]:
    values = sorted({key(group) for group in found})
    if len(values) > PANELS:
        values = [values[round(i * (len(values) - 1) / (PANELS - 1))] for i in range(PANELS)]
    return [(value, [group for group in found if key(group) == value]) for value in values]


def _n(section: Section) -> str:
    counts = sorted({len(group.done) for group in tuned(section) if group.done})
    shown = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    band = "median, min to max" if section.convention == "median" else "mean, ± standard deviation"
    return f"{band}, {shown}"


def _against(
    name: str, what: str, xlabel: str, x: Callable[[Group], float | None], log: bool = False, y: str = "accuracy"
) -> Callable[[Section], Figure | None]:
    def make(section: Section) -> Figure | None:
        found = [group for group in tuned(section) if group.done]
        if len({x(group) for group in found}) < 2 or any(x(group) is None for group in found):
            return None
        panels = []
        for epochs, members in _panels_by(found, lambda g: g.retrain_epochs if g.cycles < 2 else -1):
            lines = [_line(s, part, x, y, section) for s, part in by_series(members).items()]
            title = f"{epochs} epochs of retraining" if epochs >= 0 else "iterative"
            if any(len(line.x) > 1 for line in lines):
                panels.append(Panel(lines, title, _dense(section) if y == "accuracy" else None))
        ylabel = ACCURACY if y == "accuracy" else "theoretical speedup"
        return Figure(name, f"{what} ({_n(section)})", xlabel, ylabel, panels, log) if panels else None

    return make


def _retraining(section: Section) -> Figure | None:
    found = [group for group in tuned(section) if group.done]
    if len({group.retrain_epochs for group in found}) < 2:
        return None
    panels = [
        Panel(
            [_line(s, part, lambda g: g.retrain_epochs, "accuracy", section) for s, part in by_series(members).items()],
            f"sparsity {percent(sparsity, 1)} %",
            _dense(section),
        )
        for sparsity, members in _panels_by(found, lambda g: g.sparsity)
    ]
    panels = [panel for panel in panels if any(len(line.x) > 1 for line in panel.lines)]
    title = f"Accuracy against retraining time ({_n(section)})"
    return Figure("accuracy-retraining", title, "epochs of retraining", ACCURACY, panels) if panels else None


def _envelope(section: Section) -> Figure | None:
    found = [group for group in envelope(section) if group.done]
    if not set(EPOCHS) & set(section.best_over) or len({group.sparsity for group in found}) < 2:
        return None
    lines = [
        _line(s, part, lambda g: 1 / (1 - g.sparsity), "accuracy", section) for s, part in by_series(found).items()
    ]
    title = f"Best accuracy across retraining times ({_n(section)})"
    return Figure("envelope", title, "compression ratio", ACCURACY, [Panel(lines, "", _dense(section))], True)


def _envelope_budget(section: Section) -> Figure | None:
    """The best accuracy within each total of retraining epochs, chosen by validation: Zimmer et al.'s Figures 2 to 5."""
    found = [group for group in tuned(section) if group.done]
    if len({group.retrain_epochs for group in found}) < 3:
        return None
    panels = []
    for sparsity, members in _panels_by(found, lambda g: g.sparsity):
        lines = []
        for name, part in by_series(members).items():
            budgets = sorted({group.retrain_epochs for group in part})
            held = [_within(part, budget) for budget in budgets]
            places = iter(budgets)
            lines.append(_line(name, held, lambda g, places=places: next(places), "accuracy", section))  # type: ignore[misc]
        panels.append(Panel(lines, f"sparsity {percent(sparsity, 1)} %", _dense(section)))
    title = f"Best accuracy within a retraining budget ({_n(section)})"
    return Figure("envelope-budget", title, "epochs of retraining, at most", ACCURACY, panels)


def _within(part: Sequence[Group], budget: int) -> Group:
    return best([group for group in part if group.retrain_epochs <= budget], lambda g: 0)[0]


def _sparsest(section: Section) -> list[Group]:
    """Returns each line's group at the highest sparsity that all lines have."""
    lines = by_series([group for group in tuned(section) if group.done])
    common = set.intersection(*({g.sparsity for g in part} for part in lines.values())) if lines else set()
    if not common:
        return []
    return [
        max((g for g in part if g.sparsity == max(common)), key=lambda g: g.retrain_epochs) for part in lines.values()
    ]


def _layers(section: Section) -> Figure | None:
    found = [group for group in _sparsest(section) if group.sparsity > 0]
    names = list(found[0].done[0].get("layers") or {}) if found else []
    if not names or any(list(summary.get("layers") or {}) != names for g in found for summary in g.done):
        return None
    lines = []
    for group in found:
        shares = [[100 * kept / total for kept, total in summary["layers"].values()] for summary in group.done]
        middle = [spread(column, section.convention) for column in zip(*shares, strict=True)]
        values = [value for value in middle if value is not None]
        lines.append(_through(group.series, range(len(names)), values))
    step = -(-len(names) // 28)
    ticks = [(i, name.removesuffix(".weight")) for i, name in enumerate(names) if i % step == 0]
    title = f"Density of each layer at {percent(found[0].sparsity, 1)} % sparsity ({_n(section)})"
    return Figure("layer-density", title, "layer", "weights kept (%)", [Panel(lines)], ticks=ticks)


def _curves(section: Section) -> Figure | None:
    """Validation accuracy by epoch of the last retraining, at the highest common sparsity; train accuracy without validation."""
    lines, key = [], ""
    for group in _sparsest(section):
        logs = [records for row in group.rows if row.summary and (records := runs.log(row.folder))]
        if not logs:
            continue
        key = key or ("val_accuracy" if logs[0][0].get("val_accuracy") is not None else "train_accuracy")
        epochs = min(map(len, logs))
        columns = [[100 * log[i][key] for log in logs if log[i].get(key) is not None] for i in range(epochs)]
        values = [value for column in columns if (value := spread(column, section.convention)) is not None]
        if len(values) == epochs > 1:
            lines.append(_through(group.series, range(1, epochs + 1), values))
    if not lines:
        return None
    what = "validation accuracy (%)" if key == "val_accuracy" else "accuracy on training batches (%)"
    title = f"Learning curves at {percent(_sparsest(section)[0].sparsity, 1)} % sparsity ({_n(section)})"
    return Figure("learning-curves", title, "epoch of retraining", what, [Panel(lines)])


def _compression(group: Group) -> float:
    return 1 / (1 - group.sparsity)


FIGURES: dict[str, Callable[[Section], Figure | None]] = {
    "envelope": _envelope,
    "accuracy-compression": _against(
        "accuracy-compression", "Accuracy against compression", "compression ratio", _compression, True
    ),
    "accuracy-sparsity": _against(
        "accuracy-sparsity", "Accuracy against sparsity", "sparsity (%)", lambda g: 100 * g.sparsity
    ),
    "accuracy-speedup": _against(
        "accuracy-speedup", "Accuracy against theoretical speedup", "theoretical speedup", _speedup, True
    ),
    "accuracy-retraining": _retraining,
    "envelope-budget": _envelope_budget,
    "speedup-compression": _against(
        "speedup-compression",
        "Theoretical speedup against compression",
        "compression ratio",
        _compression,
        True,
        "speedup",
    ),
    "layer-density": _layers,
    "learning-curves": _curves,
}
