"""What the figures of a section share: groups as lines, the dense networks' level, how many runs are behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pruning.study.report.figures import Line
from pruning.study.report.groups import Group, by_series, tuned
from pruning.study.report.rows import Section
from pruning.study.spread import Spread, spread


def line_of(name: str, members: Sequence[Group], x: Callable[[Group], float | None], y: str, section: Section) -> Line:
    scale = section.metric.scale if y == "metric" else 1.0
    points = []
    for group in members:
        value, place = spread(group.values(y), section.convention), x(group)
        if value is not None and place is not None:
            points.append((place, value.middle * scale, value.low * scale, value.high * scale, value.n))
    points.sort()
    columns = list(zip(*points, strict=True)) or [()] * 5
    return Line(name, *columns)


def through(name: str, x: Iterable[float], values: Sequence[Spread]) -> Line:
    return Line(name, list(x), [v.middle for v in values], [v.low for v in values], [v.high for v in values])


def dense_level(section: Section) -> tuple[str, float] | None:
    """Returns the dense networks' metric, where they are all of one network and data set."""
    found = [summary for summary in section.dense if not summary["sparsity"]]
    if len({(summary["model"], summary["data"]) for summary in found}) != 1:
        return None
    middle = spread([summary["metric"] for summary in found], section.convention)
    return None if middle is None else (f"dense (n = {middle.n})", section.metric.scale * middle.middle)


def metric_title(section: Section) -> str:
    """Returns the metric's name as a title begins with it."""
    name = section.metric.name
    return name[:1].upper() + name[1:]


def how_many(section: Section) -> str:
    counts = sorted({len(group.done) for group in tuned(section) if group.done})
    shown = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    band = "median, min to max" if section.convention == "median" else "mean, ± standard deviation"
    return f"{band}, {shown}"


def sparsest(section: Section) -> list[Group]:
    """Returns each line's group at the highest sparsity that all lines have."""
    lines = by_series([group for group in tuned(section) if group.done])
    common = set.intersection(*({g.sparsity for g in part} for part in lines.values())) if lines else set()
    if not common:
        return []
    return [
        max((g for g in part if g.sparsity == max(common)), key=lambda g: g.retrain_epochs) for part in lines.values()
    ]
