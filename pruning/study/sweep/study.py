"""Studies as data: a base plan, axes, conditions and seeds, read from TOML and expanded into plans.

    base = "digits"                              a recipe or a TOML file; or [[phases]] of its own; or run = "FOLDER", a finished
                                                 run that prune and retrain phases go on from
    seeds = [0, 1, 2]
    points = "last"                              which runs are results: each plan's last, or "every" retraining of it
    keep = "all"                                 whose tensors stay: all | points (with the dense networks) | dense | none
    best_over = ["retrain.epochs"]               axes whose best value, by validation accuracy, a report takes
    [set]                                        settings that every plan takes, by the paths of --set
    "train.epochs" = 100
    [axes]                                       settings that vary: a list, a range or a ladder
    "prune.sparsity" = { ladder = { start = 0.8, ratio = 0.8, count = 10 }, density = true }
    "retrain.epochs" = { range = [10, 50, 20] }
    sparsity = [0.9, 0.95]                       a name of its own: stands where the phases say "$sparsity"
    [[axes.technique]]                           cases with a label, several settings each, and phases or a base of their own; with
                                                 a variant too, a report takes the best variant of each label. Settings may say
                                                 "$sparsity", too: "train.sparsity" = "$sparsity"
    label = "fine-tuning"
    "retrain.technique" = "fine-tune"
    [[drop]]                                     combinations that are left out: every line fits
    technique = "fine-tuning"
    "retrain.epochs" = { above = 50 }

Paths are train.KEY, prune.KEY, retrain.KEY (every phase of that kind), iterate.KEY (before it is expanded) and phases.INDEX.KEY.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pruning import plan as plans
from pruning.plan import Phase, Plan, PlanError, Train, make, suggest
from pruning.study.sweep.axes import Value, is_number, paths, read_axes


class Study(BaseModel):
    """A study as its file states it; see the module's docstring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str = ""
    summary: str = ""
    citation: str = ""
    source: str = ""  # the figure or table of the citation
    notes: str = ""
    needs: tuple[str, ...] = ()  # networks, data sets, methods ... without which the study cannot run
    base: str | None = None
    run: str | None = None
    phases: tuple[dict[str, Any], ...] | None = None
    set: dict[str, Any] = {}
    axes: dict[str, Any] = {}
    drop: tuple[dict[str, Any], ...] = ()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    points: Literal["last", "every"] = "last"
    keep: Literal["all", "points", "dense", "none"] = "all"
    convention: Literal["median", "mean"] = "median"
    best_over: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    folder: str = "."  # where relative paths of the file start

    @model_validator(mode="after")
    def _whole(self) -> Study:
        if self.base is not None and (self.run is not None or self.phases is not None):
            raise ValueError("give one of base, phases, or run with phases")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} names one twice")
        if self.run is not None and len(self.seeds) > 1:
            raise ValueError("a study over a run has that run's seed; leave out seeds")
        unknown = [axis for axis in self.best_over if axis not in self.axes]
        if unknown:
            raise ValueError(f"best_over names '{unknown[0]}'{suggest(unknown[0], self.axes)}, which is no axis")
        return self


@dataclass(frozen=True)
class Point:
    """One plan of a study: where it lies on each axis, its seed, its phases; `parent` is the run it goes on from, if any."""

    labels: dict[str, Any]
    seed: int
    phases: tuple[Phase, ...]
    parent: Path | None = None


def study_names() -> list[str]:
    """Returns the names of the built-in studies, sorted."""
    return sorted(f.name[:-5] for f in resources.files("pruning.study.studies").iterdir() if f.name.endswith(".toml"))


def load_study(name_or_path: str) -> Study:
    """Returns the study of a built-in name or of a TOML file; raises PlanError with the nearest name."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"study '{name_or_path}' cannot be read: {error}") from None
        return parse_study(text, path.stem, str(path.parent))
    if name_or_path not in study_names():
        raise PlanError(
            f"study '{name_or_path}' is unknown{suggest(name_or_path, study_names())}; "
            "`prune list studies` names them, or give a path that ends in .toml"
        )
    return parse_study(
        resources.files("pruning.study.studies").joinpath(f"{name_or_path}.toml").read_text(), name_or_path
    )


def parse_study(text: str, name: str, folder: str = ".") -> Study:
    """Returns the study that a TOML text states."""
    table = plans.read_toml(text, f"study '{name}'")
    try:
        study: Study = make(Study, {"name": name, "folder": folder, **table})
        read_axes(study.axes, study.set, str([study.phases, study.axes]))
    except PlanError as error:
        raise PlanError(f"study '{name}': {error}") from None
    return study


# --- combinations ----------------------------------------------------------------------------------------------------------------


def combinations(study: Study) -> list[dict[str, Value]]:
    """Returns the combinations of the axes' values that no condition drops, the last axis varying fastest."""
    found = read_axes(study.axes, study.set, str([study.phases, study.axes]))
    rows = [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]
    known = [*found, *dict.fromkeys(path for values in found.values() for v in values for path in v.changes)]
    for condition in study.drop:
        for key in paths(condition):
            if key not in known:
                raise PlanError(f"study '{study.name}': drop names '{key}'{suggest(key, known)}, which no axis sets")
    kept = [row for row in rows if not any(_fits(row, paths(condition)) for condition in study.drop)]
    if not kept:
        raise PlanError(f"study '{study.name}' is empty: its conditions drop all {len(rows)} combinations")
    return kept


def _fits(row: dict[str, Value], condition: Mapping[str, Any]) -> bool:
    settings = {path: value for v in row.values() for path, value in v.changes.items()}
    settings |= {axis: value.label for axis, value in row.items()}
    return all(key in settings and _meets(settings[key], wanted, key) for key, wanted in condition.items())


def _meets(value: Any, wanted: Any, key: str) -> bool:
    if isinstance(wanted, list):
        return value in wanted
    if not isinstance(wanted, dict):
        return bool(value == wanted)
    tests = {
        "above": lambda limit: value > limit,
        "below": lambda limit: value < limit,
        "at_least": lambda limit: value >= limit,
        "at_most": lambda limit: value <= limit,
        "not": lambda other: value not in other if isinstance(other, list) else value != other,
    }
    unknown = [name for name in wanted if name not in tests]
    if unknown:
        raise PlanError(f"drop '{key}': '{unknown[0]}' is unknown; allowed: {', '.join(tests)}")
    if wanted.keys() - {"not"} and not is_number(value):
        return False
    return all(tests[name](limit) for name, limit in wanted.items())


def plan_of(study: Study, row: Mapping[str, Value], more: Mapping[str, Any], train: Train | None = None) -> Plan:
    """Returns the plan of one combination; `train` stands for the history of a study over a run."""
    own = [value for value in row.values() if value.phases is not None or value.base is not None]
    if len(own) > 1:
        raise PlanError(f"study '{study.name}': two axes bring phases of their own")
    phases, base = (own[0].phases, own[0].base) if own else (study.phases, study.base)
    table, name, source = _base(study, phases, base)
    names = {axis: value.label for axis, value in row.items()}
    entries = [_filled(entry, names) for entry in table.get("phases", [])]
    if train is not None:
        entries.insert(0, train.model_dump(exclude_unset=True) | {"phase": "train"})
    changes = {**paths(study.set), **{path: v for value in row.values() for path, v in value.changes.items()}, **more}
    changes = {path: _filled(value, names) for path, value in changes.items()}
    for path, value in changes.items():
        head, _, key = path.partition(".")
        if head == "iterate":
            cycles = [entry for entry in entries if entry.get("phase") == "iterate"]
            if not cycles:
                raise PlanError(f"'{path}': {source} has no iterate phase")
            for entry in cycles:
                entry[key] = value
    rest = {path: value for path, value in changes.items() if not path.startswith("iterate.")}
    return plans.override_plan(plans.make_plan({**table, "phases": entries}, name, source), rest)


def _filled(value: Any, names: Mapping[str, Any]) -> Any:
    """Returns the phase's table with every "$axis" replaced by the combination's place on that axis."""
    if isinstance(value, dict):
        return {key: _filled(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, names) for inner in value]
    if isinstance(value, str) and value.startswith("$"):
        if value[1:] not in names:
            raise PlanError(f"'{value}' stands for no axis{suggest(value[1:], names)}; axes: {', '.join(names)}")
        return names[value[1:]]
    return value


def _base(study: Study, phases: tuple[dict[str, Any], ...] | None, base: str | None) -> tuple[dict[str, Any], str, str]:
    if phases is not None:
        return {"phases": list(phases)}, study.name, f"study '{study.name}'"
    if base is None:
        raise PlanError(f"study '{study.name}' has no base, no phases and no run to start from")
    beside = Path(study.folder) / base
    return plans.read_plan(str(beside) if base.endswith(".toml") and beside.is_file() else base)
