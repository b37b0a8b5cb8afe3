"""The axes of a study: lists, ranges, ladders and labelled cases of settings, checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning.plan import PHASES, Iterate, PlanError, suggest

MOST = 10_000  # values on an axis
KINDS = (*PHASES, "iterate")


@dataclass(frozen=True)
class Value:
    """One place on an axis: what it is called, the settings it makes, and phases of its own, or a base's, in place of the study's.

    Values with one label and several variants are one line of a report: their best, by validation accuracy.
    """

    label: Any
    changes: dict[str, Any]
    phases: tuple[dict[str, Any], ...] | None = None
    variant: str | None = None
    base: str | None = None  # a recipe or a TOML file


def read_axes(given: Mapping[str, Any], fixed: Mapping[str, Any], used: str = "") -> dict[str, list[Value]]:
    """Returns {axis: its values}; `fixed` is the study's [set], `used` the text of its phases, in which '$name' names an axis.

    Raises PlanError for empty axes, unknown paths and two axes on one setting.
    """
    found: dict[str, list[Value]] = {}
    owner: dict[str, str] = dict.fromkeys(paths(fixed), "[set]")
    for name, spec in given.items():
        if _is_cases(spec):
            values = _cases(name, spec)
        elif name.isidentifier() and f"'${name}'" in used:
            values = [Value(v, {}) for v in _listed(name, spec)]
        else:
            values = [Value(v, {name: v}) for v in _listed(name, spec)]
        if not values:
            raise PlanError(f"axis '{name}' is empty")
        labels = [f"{value.label}, {value.variant}" if value.variant else str(value.label) for value in values]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise PlanError(f"axis '{name}' holds '{twice[0]}' twice")
        for path in dict.fromkeys(path for value in values for path in value.changes):
            if path in owner:
                raise PlanError(f"'{path}' is set by axis '{name}' and by {owner[path]}; a setting has one axis")
            _check_path(path)
            owner[path] = f"axis '{name}'"
        found[name] = values
    for path in paths(fixed):
        _check_path(path)
    return found


def _is_cases(spec: Any) -> bool:
    return isinstance(spec, list) and bool(spec) and all(isinstance(v, dict) and "label" in v for v in spec)


def _cases(name: str, spec: list[dict[str, Any]]) -> list[Value]:
    values = []
    for entry in spec:
        rest = {key: value for key, value in entry.items() if key not in ("label", "variant", "phases", "base")}
        phases = entry.get("phases")
        if phases is not None and not isinstance(phases, list):
            raise PlanError(f"axis '{name}', '{entry['label']}': phases must be a list of tables")
        base = entry.get("base")
        if base is not None and (phases is not None or not isinstance(base, str)):
            raise PlanError(f"axis '{name}', '{entry['label']}': give phases, or the name of a recipe as base")
        own = None if phases is None else tuple(phases)
        values.append(Value(entry["label"], paths(rest), own, entry.get("variant"), base))
    return values


def paths(table: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the table with `retrain.technique = x`, which TOML reads as a table in a table, as one path."""
    out: dict[str, Any] = {}
    for key, value in table.items():
        if key in KINDS and isinstance(value, dict):
            out |= {f"{key}.{rest}": inner for rest, inner in value.items()}
        else:
            out[key] = value
    return out


def _listed(name: str, spec: Any) -> list[Any]:
    if name in KINDS and isinstance(spec, dict):
        raise PlanError(f"axis '{name}': write the path in quotes, \"{name}.{next(iter(spec), 'KEY')}\" = [...]")
    if isinstance(spec, list):
        return spec
    form = (
        "a list, { range = [first, last, step] } or { ladder = { start, ratio, count } }, with density = true if wanted"
    )
    if not isinstance(spec, dict):
        raise PlanError(f"axis '{name}' must be {form}, not {spec!r}")
    unknown = [key for key in spec if key not in ("values", "range", "ladder", "density")]
    if unknown or len(spec.keys() & {"values", "range", "ladder"}) != 1:
        raise PlanError(f"axis '{name}' must be {form}" + (f"; '{unknown[0]}' is unknown" if unknown else ""))
    values = spec["values"] if "values" in spec else _range(name, spec) if "range" in spec else _ladder(name, spec)
    if spec.get("density"):
        return [round(1.0 - value, 12) for value in values]
    return list(values)


def _range(name: str, spec: dict[str, Any]) -> list[Any]:
    """Returns first, first + step, ... up to last, which is included."""
    given = spec["range"]
    if not (isinstance(given, list) and len(given) == 3 and all(is_number(v) for v in given) and given[2] > 0):
        raise PlanError(f"axis '{name}': range = [first, last, step] with a step above 0, not {given!r}")
    first, last, step = given
    count = max(0, int((last - first) / step + 1e-9) + 1) if last >= first else 0
    if count > MOST:
        raise PlanError(f"axis '{name}': the range has {count:,} values; allowed are up to {MOST:,}")
    values = [first + i * step for i in range(count)]
    return values if all(isinstance(v, int) for v in given) else [round(v, 12) for v in values]


def _ladder(name: str, spec: dict[str, Any]) -> list[float]:
    """Returns start, start * ratio, start * ratio^2 ...: with density = true and ratio .8 the papers' sparsities."""
    given = spec["ladder"]
    if not isinstance(given, dict) or given.keys() != {"start", "ratio", "count"}:
        raise PlanError(f"axis '{name}': ladder = {{ start = 0.8, ratio = 0.8, count = 10 }}, not {given!r}")
    if not all(is_number(value) for value in given.values()) or type(given["count"]) is not int:
        raise PlanError(f"axis '{name}': a ladder takes numbers, its count a whole one, not {given!r}")
    if not 0 <= given["count"] <= MOST:
        raise PlanError(f"axis '{name}': the ladder has {given['count']:,} values; allowed are up to {MOST:,}")
    return [round(given["start"] * given["ratio"] ** k, 12) for k in range(given["count"])]


def is_number(value: Any) -> bool:
    """Returns whether the value is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_path(path: str) -> None:
    head, _, key = path.partition(".")
    if head == "phases":
        return  # which phase that is depends on the plan
    if head not in KINDS or not key:
        raise PlanError(
            f"unknown setting '{path}'{suggest(path, allpaths())}; write train.KEY, prune.KEY, retrain.KEY, "
            "iterate.KEY or phases.INDEX.KEY"
        )
    fields = Iterate.model_fields if head == "iterate" else PHASES[head].model_fields
    if key.partition(".")[0] not in fields or key == "phase":
        known = ", ".join(sorted(set(fields) - {"phase"}))
        raise PlanError(f"unknown setting '{path}'{suggest(path, allpaths())}; {head} has {known}")


def allpaths() -> list[str]:
    """Returns every setting's path: train.lr, prune.sparsity ..."""
    kinds = {**PHASES, "iterate": Iterate}
    return [f"{kind}.{key}" for kind, model in kinds.items() for key in model.model_fields if key != "phase"]
