"""Rows that differ in their seed only, taken together: n, middle and spread by the paper's convention; the best over an axis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.plan.lengths import counted
from pruning.study.report.rows import X_AXES, Row, Section


@dataclass(frozen=True)
class Group:
    """The rows of one combination. `chosen` says which value of an axis was best, where that was asked for."""

    series: str
    sparsity: float
    retrain_epochs: float
    cycles: int
    rows: tuple[Row, ...]
    chosen: str = ""

    @property
    def expected(self) -> int:
        """Returns how many results there should be."""
        return len(self.rows)

    @property
    def done(self) -> list[dict[str, Any]]:
        """Returns the summaries that there are."""
        return [row.summary for row in self.rows if row.summary is not None]

    def values(self, key: str) -> list[float]:
        """Returns the finished results' values of a summary's key, those that are not null."""
        return [float(summary[key]) for summary in self.done if summary.get(key) is not None]


def groups(section: Section, without: Sequence[str] = ()) -> list[Group]:
    """Returns the section's groups, in the order of its axes; `without` leaves an axis out of the series' names."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in section.rows:
        name = series(row, without)
        hidden = tuple(str(row.labels[axis]) for axis in without if axis in row.labels)
        key = (name, round(row.sparsity, 9), row.retrain_epochs, row.cycles, hidden)
        found.setdefault(key, []).append(row)
    return [
        Group(name, sparsity, epochs, cycles, tuple(rows), ", ".join(hidden))
        for (name, sparsity, epochs, cycles, hidden), rows in found.items()
    ]


def series(row: Row, without: Sequence[str] = ()) -> str:
    """Returns the name of the line that the row belongs to: its labels on all axes but sparsity and retraining time."""
    parts = []
    for axis, label in row.labels.items():
        if axis in X_AXES or axis in without or label is None:
            continue
        key = axis.rpartition(".")[2]
        parts.append(f"{key} {label}" if isinstance(label, (bool, int, float)) else str(label))
    return ", ".join(parts) or "all"


def tuned(section: Section) -> list[Group]:
    """Returns the groups with the best value, by its validation metric, of every axis of best_over but the retraining time."""
    over = [axis for axis in section.best_over if axis not in X_AXES]
    if not over:
        return groups(section)
    return best(groups(section, over), _place)


def _place(group: Group) -> tuple[Any, ...]:
    """Returns what tuning holds fixed: variants of one method may differ in how they share out their epochs."""
    if any(axis.endswith(" variant") for axis in group.rows[0].labels):
        return (group.series, group.sparsity)
    return (group.series, group.sparsity, group.retrain_epochs, group.cycles)


def envelope(section: Section) -> list[Group]:
    """Returns, for each line and sparsity, the group with the best retraining time by its validation metric."""
    chosen = best(tuned(section), lambda g: (g.series, g.sparsity))
    return [
        Group(g.series, g.sparsity, g.retrain_epochs, g.cycles, g.rows, counted(g.retrain_epochs, "epoch"))
        for g in chosen
    ]


def best(candidates: Sequence[Group], key: Callable[[Group], Any]) -> list[Group]:
    """Returns of each key the group with the highest mean validation metric; test metric where there is no validation."""
    found: dict[Any, Group] = {}
    for group in candidates:
        held = found.get(key(group))
        if held is None or _merit(group) > _merit(held):
            found[key(group)] = group
    return list(found.values())


def _merit(group: Group) -> float:
    values = group.values("val_metric") or group.values("metric")
    return statistics.fmean(values) if values else -math.inf


def by_series(found: Sequence[Group]) -> dict[str, list[Group]]:
    """Returns {series: its groups}, both in order."""
    out: dict[str, list[Group]] = {}
    for group in found:
        out.setdefault(group.series, []).append(group)
    return out
