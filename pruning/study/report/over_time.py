"""Figures over the course of the dense training: when weights went, and what came of it (Frankle et al. 2021, figures 1 and 7)."""

from __future__ import annotations

from typing import Any

from pruning.plan import lengths
from pruning.record import kept, runs
from pruning.study.report.figures import Figure, Line, Panel
from pruning.study.report.groups import Group, by_series, groups, tuned
from pruning.study.report.lines import dense_level, how_many, line_of, metric_title
from pruning.study.report.rows import Row, Section
from pruning.study.report.tables import percent
from pruning.study.spread import spread

BUDGET = "budget"  # the axis of a study that says how long the dense training is, in epochs
TIME = "time"  # the axis of a study that says at which step or epoch the dense training is pruned or rewound to
WITHIN = 1.0  # percentage points of the dense networks' accuracy


def accuracy_time(section: Section) -> Figure | None:
    """The metric against the point of training on the axis `time`, a panel for each sparsity: their Figure 7."""
    what, unit = "the point of training that is pruned or rewound to", f"{_unit(section)} of training"
    return _along(section, TIME, "accuracy-time", what, unit, dense_level(section))


def accuracy_budget(section: Section) -> Figure | None:
    """The metric against the length of the dense training on the axis `budget`: Zimmer et al. 2023, figures 6 and 7."""
    return _along(
        section, BUDGET, "accuracy-budget", "the length of the dense training", "epochs of the dense training"
    )


def _along(
    section: Section, axis: str, name: str, what: str, unit: str, level: tuple[str, float] | None = None
) -> Figure | None:
    places = section.axes.get(axis, [])
    if len(places) < 2 or not all(isinstance(row.labels.get(axis), (int, float)) for row in section.rows):
        return None
    found = [group for group in groups(section, (axis,)) if group.done]
    panels = []
    for sparsity in sorted({group.sparsity for group in found}):
        members = by_series([group for group in found if group.sparsity == sparsity])
        lines = [line_of(label, part, lambda g: float(g.chosen), "metric", section) for label, part in members.items()]
        if any(len(line.x) > 1 for line in lines):
            panels.append(Panel(lines, f"sparsity {percent(sparsity, 1)} %", level))
    if not panels:
        return None
    title = f"{metric_title(section)} against {what} ({how_many(section)})"
    return Figure(name, title, unit, f"test {section.metric.label}", panels)


def weights_remaining(section: Section) -> Figure | None:
    """Weights left at each step of training, of each line's sparsest networks within a point of the dense ones: their Figure 1.

    A line falls where the training was pruned: at once, or as its log says where a method pruned on the way. Rewinding to a step
    says only afterwards what could have been left from that step on.
    """
    level = dense_level(section)
    if level is None or section.metric.scale != 100:
        return None
    lines = []
    for name, part in by_series([group for group in tuned(section) if group.done]).items():
        matching = [group for group in part if _middle(group, section) >= level[1] - WITHIN]
        if matching and (line := _course(name, max(matching, key=lambda group: group.sparsity))) is not None:
            lines.append(line)
    title = f"Weights left at each step, of the sparsest networks within {WITHIN:g} point of the dense ones' {section.metric.name}"
    return (
        Figure(
            "weights-remaining",
            f"{title} ({how_many(section)})",
            "step of training",
            "weights left (%)",
            [Panel(lines)],
        )
        if lines
        else None
    )


def _middle(group: Group, section: Section) -> float:
    found = spread(group.values("metric"), section.convention)
    return float("-inf") if found is None else section.metric.scale * found.middle


def _course(name: str, group: Group) -> Line | None:
    """Returns the share of weights left by step of the dense training, from the first run whose training has a log."""
    for row in group.rows:
        if row.summary is None:
            continue
        chain = runs.history(row.folder)
        log = runs.log(chain[0]) if runs.is_done(chain[0]) else []
        if not log or not all(isinstance(record.get("step"), int) for record in log):
            continue
        last, left = log[-1]["step"], 100 * (1 - row.summary["sparsity"])
        settings = [runs.read_record(folder)["settings"] for folder in chain]
        if all(phase["phase"] != "prune" for phase in settings):  # a method pruned on the way
            x, y = (
                [0, *(record["step"] for record in log)],
                [100.0, *(100 * record.get("density", 1) for record in log)],
            )
            return Line(name, x, y)
        at, afterwards = _pruned_at(settings, chain[0], last)
        label = f"{name}, known after training" if afterwards else name
        return Line(label, [0, at, at, last], [100.0, 100.0, left, left])
    return None


def _pruned_at(settings: list[dict[str, Any]], root: Any, last: int) -> tuple[int, bool]:
    """Returns the step from which weights are gone, and whether only a mask from after the training says which."""
    rewound = [phase["rewind_step"] for phase in settings if phase.get("rewind_step") is not None]
    if rewound:
        return rewound[-1], True
    first = next(phase for phase in settings if phase["phase"] == "prune")
    if first.get("at_step") is not None:
        return first["at_step"], False
    if first.get("at_epoch") is not None:
        return lengths.point(first["at_epoch"], settings[0]["epochs"], kept.steps_per_epoch(root)), False
    return last, False


def _unit(section: Section) -> str:
    """Returns "step" or "epoch", whichever the pruned states are counted in."""
    for row in section.rows:
        if row.summary is not None:
            return "step" if _in_steps(row) else "epoch"
    return "step"


def _in_steps(row: Row) -> bool:
    settings = [runs.read_record(folder)["settings"] for folder in runs.history(row.folder)]
    return any(phase.get(key) is not None for phase in settings for key in ("at_step", "rewind_step"))
