"""From run folders to rows: one per result, with where it lies on the study's axes. Reads JSON only, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.plan import PlanError, lengths, suggest
from pruning.record import kept, runs
from pruning.record.text import read_object

STUDIES = "studies"
EPOCHS = ("retrain.epochs", "epochs")
X_AXES = (  # axes that are drawn along x or as panels, not as lines
    "prune.sparsity", "iterate.sparsity", "train.sparsity", "sparsity", "iterate.cycles", "cycles",
    "prune.filter_level", *EPOCHS,
)  # fmt: skip

# What tells runs apart where no study does: of the pruning, the retraining and the training, in the order of a label
SETTINGS = (
    ("train", "model"), ("train", "data"), ("train", "method"), ("prune", "criterion"), ("prune", "allocation"),
    ("prune", "structure"), ("prune", "ablation"), ("retrain", "technique"), ("retrain", "schedule"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One result: its labels on the axes, its goal, and its summary, None where it is missing."""

    labels: dict[str, Any]
    seed: int
    run: str
    sparsity: float  # asked for
    retrain_epochs: float
    cycles: int
    summary: dict[str, Any] | None
    folder: Path


@dataclass(frozen=True)
class Metric:
    """The metric that results are judged by, and what it is multiplied with to be printed; 100: percent."""

    name: str = "accuracy"
    scale: float = 100.0

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Metric:
        """Returns the metric of a result."""
        return cls(summary["metric_name"], float(summary["metric_scale"]))

    @property
    def unit(self) -> str:
        """Returns " %" where it is printed in percent."""
        return " %" if self.scale == 100 else ""

    @property
    def label(self) -> str:
        """Returns `accuracy (%)`."""
        return f"{self.name} (%)" if self.scale == 100 else self.name


@dataclass(frozen=True)
class Section:
    """What a report shows together: a study's results, or those of runs without a study."""

    name: str
    title: str
    rows: list[Row]
    axes: dict[str, list[Any]]
    dense: list[dict[str, Any]] = field(default_factory=list)  # summaries of the dense networks
    facts: dict[str, Any] = field(default_factory=dict)  # citation, source, notes ... of the study
    convention: str = "median"
    best_over: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    scale: float = 1.0

    @property
    def metric(self) -> Metric:
        """Returns the metric that the results are judged by, that of the first of them."""
        for summary in (*(row.summary for row in self.rows), *self.dense):
            if summary is not None:
                return Metric.of(summary)
        return Metric()


def sections(paths: Iterable[Path], study: str | None = None) -> list[Section]:
    """Returns a section for every study recorded in the folders, else one for all their runs; run folders make one of their own."""
    found: list[Section] = []
    single: list[Path] = []
    for path in paths:
        if runs.is_run(path):
            single.append(path)
            continue
        if not path.is_dir():
            raise PlanError(f"'{path}' does not exist; prune report takes run folders and folders of runs")
        records = sorted((path / STUDIES).glob("*.json"))
        if study is not None:
            names = [record.stem for record in records]
            if study not in names:
                known = ", ".join(names) or "none"
                raise PlanError(f"'{path}' has no study '{study}'{suggest(study, names)}; recorded there: {known}")
            records = [path / STUDIES / f"{study}.json"]
        if records:
            found += [of_study(record) for record in records]
        else:
            single += sorted(folder for folder in path.iterdir() if runs.is_run(folder))
    if single:
        found += of_runs(single)
    if not found:
        raise PlanError(f"nothing to report: no run lies in {', '.join(map(str, paths)) or 'what was given'}")
    return found


def of_study(record: Path) -> Section:
    """Returns the section of a study's record, with rows for results that are missing."""
    study = read_object(record)
    out = record.parents[1]
    dense: dict[str, dict[str, Any]] = {}
    rows: dict[tuple[str, str], Row] = {}
    for point in study["points"]:
        root = out / point["runs"][0]
        if root.name not in dense and runs.is_done(root) and runs.read_record(root)["settings"]["phase"] == "train":
            dense[root.name] = runs.read_summary(root)
        for run, goal in zip(point["results"], point["goals"], strict=True):
            summary = runs.read_summary(out / run) if runs.is_done(out / run) else None
            if (
                not goal["sparsity"] and summary is not None
            ):  # by rates of filters or a method's settings: what came of it
                goal = {**goal, "sparsity": summary["sparsity"]}
            steps = goal.get("retrain_steps", 0)
            goal = {key: value for key, value in goal.items() if key != "retrain_steps"}
            goal["retrain_epochs"] += _in_epochs(steps, out / run) or _in_epochs(steps, root)
            row = Row(point["labels"], point["seed"], run, **goal, summary=summary, folder=out / run)
            rows.setdefault((run, str(_series(point["labels"]))), row)
    told = ("summary", "citation", "source", "notes")
    return Section(
        study["study"], study["title"] or study["study"], list(rows.values()), study["axes"], list(dense.values()),
        {key: study[key] for key in told if study[key]}, study["convention"], tuple(study["best_over"]),
        tuple(study["figures"]), study["scale"],
    )  # fmt: skip


def _in_epochs(steps: int, folder: Path) -> float:
    """Returns the epochs that steps are in the run's training; 0 where that is not known."""
    if not steps or not runs.is_run(folder):
        return 0
    root = runs.history(folder)[0]
    return round(lengths.in_epochs(steps, kept.steps_per_epoch(root)), 6) if runs.is_done(root) else 0


def _series(labels: dict[str, Any]) -> dict[str, Any]:
    return {axis: label for axis, label in labels.items() if axis not in X_AXES}


def of_runs(folders: list[Path]) -> list[Section]:
    """Returns the section of runs without a study: every finished retraining, pruning or training nothing hangs on.

    Where they are judged by several metrics there is a section for each.
    """
    records: dict[Path, dict[str, Any]] = {}

    def record(folder: Path) -> dict[str, Any]:
        if folder not in records:
            records[folder] = runs.read_record(folder)
        return records[folder]

    parents = {folder.parent / str(record(folder)["parent"]) for folder in folders}
    rows: dict[Metric, list[Row]] = {}
    dense: dict[Metric, list[dict[str, Any]]] = {}
    for folder in folders:
        settings = record(folder)["settings"]
        if not runs.is_done(folder):
            continue
        summary = runs.read_summary(folder)
        if settings["phase"] == "train" and not summary["sparsity"]:
            dense.setdefault(Metric.of(summary), []).append(summary)
        if settings["phase"] != "retrain" and folder in parents:
            continue
        chain = [record(place)["settings"] for place in runs.history(folder, record)]
        kinds = {phase["phase"]: phase for phase in chain}
        prunings = [phase for phase in chain if phase["phase"] == "prune"]
        labels = {f"{kind}.{key}": kinds.get(kind, {}).get(key) for kind, key in SETTINGS}
        asked = prunings[-1]["sparsity"] if prunings else 0.0
        sparsity = asked or float(summary["sparsity"])  # by rates of filters, or a training's: what came of it
        parts = [phase["epochs"] for phase in chain if phase["phase"] == "retrain"]
        retrained = lengths.total(parts) + _in_epochs(lengths.total_steps(parts), folder)
        row = Row(labels, summary["seed"], folder.name, sparsity, retrained, len(prunings), summary, folder)
        rows.setdefault(Metric.of(summary), []).append(row)
    if not rows:
        raise PlanError("nothing to report: none of the runs has finished")
    return [_of_rows(found, dense.get(metric, []), metric if len(rows) > 1 else None) for metric, found in rows.items()]


def _of_rows(rows: list[Row], dense: list[dict[str, Any]], metric: Metric | None) -> Section:
    """Returns a section of rows whose axes are the labels that tell them apart; named after a metric where one is given."""
    axes = {}
    for axis in rows[0].labels:
        values = list(dict.fromkeys(row.labels[axis] for row in rows))
        if len(values) > 1:
            axes[axis] = values
    rows = [Row({a: r.labels[a] for a in axes}, *list(vars(r).values())[1:]) for r in rows]
    name = "runs" if metric is None else re.sub(r"\W+", "-", f"runs-{metric.name}-{metric.scale:g}".lower())
    return Section(name, "Runs" if metric is None else f"Runs by {metric.name}", rows, axes, dense)
