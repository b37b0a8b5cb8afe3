"""Numbers of results as they are printed: shares, metrics, counts, durations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NONE = "-"


def percent(value: float | None, digits: int = 1) -> str:
    """Returns `97.3 %` for 0.973, with more digits where fewer would say 100 of what is less."""
    if value is None:
        return NONE
    while digits < 6 and value < 1 and round(100 * value, digits) == 100:
        digits += 1
    return f"{100 * value:.{digits}f} %"


def sparsity(summary: Mapping[str, Any], digits: int = 1) -> str:
    """Returns `90.0 %`, and where the masks leave out more than a tenth of all weights `90.0 % (35.2 % of all)`."""
    own, whole = summary.get("sparsity"), summary.get("model_sparsity")
    text = percent(own, digits)
    return f"{text} ({percent(whole, digits)} of all)" if own and whole is not None and whole < 0.9 * own else text


def metric(summary: Mapping[str, Any], digits: int = 2, key: str = "metric") -> str:
    """Returns the metric of a result as it is printed: `97.3 %` where its scale is 100, else a number."""
    scale = summary.get("metric_scale") or 100.0
    value = summary.get(key, summary.get(key.replace("metric", "accuracy")))
    if value is None or scale == 100:
        return percent(value, digits)
    return f"{scale * value:.{digits}f}"


def metric_name(summaries: Sequence[Mapping[str, Any]], short: bool = False) -> str:
    """Returns the name of the metric that all results share, "metric" where they differ; `short` for a narrow column."""
    names = {summary.get("metric_name") or "accuracy" for summary in summaries} or {"accuracy"}
    name = names.pop() if len(names) == 1 else "metric"
    return "acc." if short and name == "accuracy" else name


def count(value: float | None) -> str:
    """Returns `1.23 M` for 1234567; below ten thousand the number itself."""
    if value is None:
        return NONE
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size and abs(value) >= 1e4:
            return f"{value / size:.3g} {unit}" if abs(value) < 999.5 * size else f"{value / size:.0f} {unit}"
    return f"{value:g}"


def times(value: float | None) -> str:
    """Returns `9.8x`."""
    return NONE if value is None else f"{value:.3g}x" if value < 1000 else f"{value:.0f}x"


def megabytes(size: int) -> str:
    """Returns a number of bytes in units of a million, `1.25 MB`; a dash where it is not known."""
    return f"{size / 1e6:,.4g} MB" if size else NONE


def duration(seconds: float | None) -> str:
    """Returns `20 ms`, `3.2 s`, `4 min 10 s` or `2 h 5 min`."""
    if seconds is None:
        return NONE
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
