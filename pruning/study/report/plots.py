"""A section's figures: which lines in which panels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pruning.plan.lengths import counted
from pruning.record import runs
from pruning.study.report import over_time
from pruning.study.report.figures import Figure, Panel
from pruning.study.report.groups import Group, best, by_series, envelope, tuned
from pruning.study.report.lines import dense_level, how_many, line_of, metric_title, sparsest, through
from pruning.study.report.rows import EPOCHS, Section
from pruning.study.report.tables import percent
from pruning.study.spread import spread

PANELS = 6  # at most; more are thinned out evenly


def figures(section: Section) -> list[Figure]:
    """Returns the figures that the section's data can fill, those that its study names first; some only where it names them."""
    wanted = {name: make for name, make in FIGURES.items() if name not in ASKED or name in section.figures}
    found = {name: figure for name, make in wanted.items() if (figure := make(section)) is not None}
    first = [found.pop(name) for name in section.figures if name in found]
    return [*first, *found.values()]


def _speedup(group: Group) -> float | None:
    found = spread(group.values("speedup"), "mean")
    return None if found is None else found.middle


def _panels_by(found: Sequence[Group], key: Callable[[Group], Any]) -> list[tuple[Any, list[Group]]]:
    values = sorted({key(group) for group in found})
    if len(values) > PANELS:
        values = [values[round(i * (len(values) - 1) / (PANELS - 1))] for i in range(PANELS)]
    return [(value, [group for group in found if key(group) == value]) for value in values]


def _against(
    name: str, what: str, xlabel: str, x: Callable[[Group], float | None], log: bool = False, y: str = "metric"
) -> Callable[[Section], Figure | None]:
    def make(section: Section) -> Figure | None:
        found = [group for group in tuned(section) if group.done]
        if len({x(group) for group in found}) < 2 or any(x(group) is None for group in found):
            return None
        panels = []
        for epochs, members in _panels_by(found, lambda g: g.retrain_epochs if g.cycles < 2 else -1):
            lines = [line_of(s, part, x, y, section) for s, part in by_series(members).items()]
            title = f"{counted(epochs, 'epoch')} of retraining" if epochs >= 0 else "iterative"
            if any(len(line.x) > 1 for line in lines):
                panels.append(Panel(lines, title, dense_level(section) if y == "metric" else None))
        ylabel = f"test {section.metric.label}" if y == "metric" else "theoretical speedup"
        return (
            Figure(
                name, f"{what.format(metric=metric_title(section))} ({how_many(section)})", xlabel, ylabel, panels, log
            )
            if panels
            else None
        )

    return make


def _retraining(section: Section) -> Figure | None:
    found = [group for group in tuned(section) if group.done]
    if len({group.retrain_epochs for group in found}) < 2:
        return None
    panels = [
        Panel(
            [line_of(s, part, lambda g: g.retrain_epochs, "metric", section) for s, part in by_series(members).items()],
            f"sparsity {percent(sparsity, 1)} %",
            dense_level(section),
        )
        for sparsity, members in _panels_by(found, lambda g: g.sparsity)
    ]
    panels = [panel for panel in panels if any(len(line.x) > 1 for line in panel.lines)]
    title = f"{metric_title(section)} against retraining time ({how_many(section)})"
    return (
        Figure("accuracy-retraining", title, "epochs of retraining", f"test {section.metric.label}", panels)
        if panels
        else None
    )


def _envelope(section: Section) -> Figure | None:
    found = [group for group in envelope(section) if group.done]
    if not set(EPOCHS) & set(section.best_over) or len({group.sparsity for group in found}) < 2:
        return None
    lines = [
        line_of(s, part, lambda g: 1 / (1 - g.sparsity), "metric", section) for s, part in by_series(found).items()
    ]
    title = f"Best {section.metric.name} across retraining times ({how_many(section)})"
    return Figure(
        "envelope",
        title,
        "compression ratio",
        f"test {section.metric.label}",
        [Panel(lines, "", dense_level(section))],
        True,
    )


def _envelope_budget(section: Section) -> Figure | None:
    """The best metric within each total of retraining epochs, chosen by validation: Zimmer et al.'s Figures 2 to 5."""
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
            lines.append(line_of(name, held, lambda g, places=places: next(places), "metric", section))  # type: ignore[misc]
        panels.append(Panel(lines, f"sparsity {percent(sparsity, 1)} %", dense_level(section)))
    title = f"Best {section.metric.name} within a retraining budget ({how_many(section)})"
    return Figure("envelope-budget", title, "epochs of retraining, at most", f"test {section.metric.label}", panels)


def _within(part: Sequence[Group], budget: float) -> Group:
    return best([group for group in part if group.retrain_epochs <= budget], lambda g: 0)[0]


def _layers(section: Section) -> Figure | None:
    found = [group for group in sparsest(section) if group.sparsity > 0]
    names = list(found[0].done[0].get("layers") or {}) if found else []
    if not names or any(list(summary.get("layers") or {}) != names for g in found for summary in g.done):
        return None
    lines = []
    for group in found:
        shares = [[100 * kept / total for kept, total in summary["layers"].values()] for summary in group.done]
        middle = [spread(column, section.convention) for column in zip(*shares, strict=True)]
        values = [value for value in middle if value is not None]
        lines.append(through(group.series, range(len(names)), values))
    step = -(-len(names) // 28)
    ticks = [(i, name.removesuffix(".weight")) for i, name in enumerate(names) if i % step == 0]
    title = f"Density of each layer at {percent(found[0].sparsity, 1)} % sparsity ({how_many(section)})"
    return Figure("layer-density", title, "layer", "weights kept (%)", [Panel(lines)], ticks=ticks)


def _neurons(section: Section) -> Figure | None:
    """The share of filters and neurons with at least s percent of their weights pruned: Frankle et al.'s (2021) Figure 6."""
    lines = []
    for group in sparsest(section):
        counts = [summary["neurons"]["by_sparsity"] for summary in group.done if summary.get("neurons")]
        shares = [[100 * number / found[0] for number in found] for found in counts if found[0]]
        middle = [spread(column, section.convention) for column in zip(*shares, strict=True)]
        if values := [value for value in middle if value is not None]:
            lines.append(through(group.series, range(101), values))
    if not lines:
        return None
    title = f"Neurons by their sparsity at {percent(sparsest(section)[0].sparsity, 1)} % sparsity ({how_many(section)})"
    xlabel, ylabel = "sparsity s of a neuron (%)", "neurons with sparsity of at least s (%)"
    return Figure("neuron-sparsity", title, xlabel, ylabel, [Panel(lines)])


def _curves(section: Section) -> Figure | None:
    """The validation metric by epoch of the last retraining, at the highest common sparsity; the training's without validation."""
    lines, key, scale = [], "", section.metric.scale
    for group in sparsest(section):
        logs = [records for row in group.rows if row.summary and (records := runs.log(row.folder))]
        if not logs:
            continue
        key = key or ("val_metric" if _metric(logs[0][0], "val_metric") is not None else "train_metric")
        epochs = min(map(len, logs))
        columns = [
            [scale * found for log in logs if (found := _metric(log[i], key)) is not None] for i in range(epochs)
        ]
        values = [value for column in columns if (value := spread(column, section.convention)) is not None]
        if len(values) == epochs > 1:
            lines.append(through(group.series, range(1, epochs + 1), values))
    if not lines:
        return None
    name, unit = section.metric.name, " (%)" if scale == 100 else ""
    what = f"validation {name}{unit}" if key == "val_metric" else f"{name} on training batches{unit}"
    title = f"Learning curves at {percent(sparsest(section)[0].sparsity, 1)} % sparsity ({how_many(section)})"
    return Figure("learning-curves", title, "epoch of retraining", what, [Panel(lines)])


def _metric(record: dict[str, Any], key: str) -> float | None:
    """Returns a log line's metric, or its accuracy where it is of a version that knew no other."""
    return record[key] if key in record else record.get(key.replace("metric", "accuracy"))


def _compression(group: Group) -> float:
    return 1 / (1 - group.sparsity)


FIGURES: dict[str, Callable[[Section], Figure | None]] = {
    "envelope": _envelope,
    "accuracy-compression": _against(
        "accuracy-compression", "{metric} against compression", "compression ratio", _compression, True
    ),
    "accuracy-sparsity": _against(
        "accuracy-sparsity", "{metric} against sparsity", "sparsity (%)", lambda g: 100 * g.sparsity
    ),
    "accuracy-speedup": _against(
        "accuracy-speedup", "{metric} against theoretical speedup", "theoretical speedup", _speedup, True
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
    "accuracy-time": over_time.accuracy_time,
    "accuracy-budget": over_time.accuracy_budget,
    "weights-remaining": over_time.weights_remaining,
    "neuron-sparsity": _neurons,
}
ASKED = ("weights-remaining", "neuron-sparsity")  # drawn only where a study names them
