"""From a study to its points: every combination and seed as phases, shortened where asked, with what rewinding needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_type_hints

from pruning import plan as plans
from pruning.plan import (
    Phase,
    Plan,
    PlanError,
    Prune,
    Retrain,
    Train,
    canonical,
    choices,
    lengths,
    override,
    suggest,
    techniques,
    with_epochs,
)
from pruning.record import runs
from pruning.registry import TABLES, table
from pruning.study.sweep.study import Point, Study, combinations, plan_of

FAMILIES = re.compile(r"lenet(-\d+)+|resnet\d+|vgg\d+|wrn-\d+-\d+")  # networks that are named by their size
_LISTED = (plans.ModelName, plans.DataName, plans.Structure)  # what stands in no table


def known_names() -> set[str]:
    """Returns the names of all networks, data sets, criteria ... and settings (`prune.rounds`) that there are."""
    settings = {f"{kind}.{key}" for kind, model in plans.PHASES.items() for key in get_type_hints(model)}
    tables = {name for kind in TABLES for name in table(kind)}
    return {name for literal in _LISTED for name in choices(literal)} | tables | settings


def missing(study: Study) -> list[str]:
    """Returns what the study needs and this version does not have."""
    return [name for name in study.needs if name not in known_names()]


def expand(study: Study, scale: float = 1.0) -> list[Point]:
    """Returns the study's points, every combination with every seed; raises PlanError where something does not fit.

    `scale` shortens every training and retraining in proportion, to one epoch at least; sparsities and cycles stay. Each
    training keeps the epochs that any retraining of the study rewinds to, so that all share one dense network.
    """
    if lacking := missing(study):
        raise PlanError(
            f"study '{study.name}' needs {', '.join(lacking)}, which this version does not have"
            + (f": {study.notes}" if study.notes else "")
        )
    if not 0 < scale <= 1:
        raise PlanError(f"scale must lie above 0 and at most at 1, not {scale:g}")
    parent = None if study.run is None else _parent(study)
    root = None if parent is None else runs.train_settings(parent)
    points = []
    for row in combinations(study):
        labels = {axis: value.label for axis, value in row.items()}
        labels |= {f"{axis} variant": value.variant for axis, value in row.items() if value.variant is not None}
        plan = scaled(plan_of(study, row, {}, root), scale, whole=parent is None)
        _check_names(study, plan.train)
        if parent is not None:
            points.append(Point(labels, plan.train.seed, plan.phases[1:], parent))
            continue
        for seed in study.seeds:
            train = override(plan.train, {"seed": seed})
            points.append(Point(labels, seed, (train, *plan.phases[1:])))
    return points if parent is not None else keeping(points)


def _parent(study: Study) -> Path:
    run = Path(str(study.run))
    return runs.check_run(run if run.is_dir() else Path(study.folder) / run)


def _check_names(study: Study, train: Train) -> None:
    for name, literal, what in ((train.model, plans.ModelName, "model"), (train.data, plans.DataName, "data set")):
        allowed = choices(literal)
        if name not in allowed and ":" not in name and not (what == "model" and FAMILIES.fullmatch(name)):
            raise PlanError(
                f"study '{study.name}': {what} '{name}' is unknown{suggest(name, allowed)}; allowed: {', '.join(allowed)}"
            )


def scaled(plan: Plan, scale: float, whole: bool = True) -> Plan:
    """Returns the plan with every budget in epochs times `scale`; the training's only where it is `whole`."""
    if scale == 1.0:
        return plan
    phases: list[Phase] = []
    share = scale  # of the training's steps that are left: whole epochs are rounded, and its steps go along with them
    for phase in plan.phases:
        if isinstance(phase, Train):
            short = with_epochs(phase, lengths.times(phase.epochs, scale)) if whole else phase
            share = (lengths.ratio(short.epochs, phase.epochs) or scale) if whole else scale
            phases.append(override(short, _times(phase, share if whole else 1.0, "keep_steps")))
        else:
            length, step = ("epochs", "rewind_step") if isinstance(phase, Retrain) else ("at_epoch", "at_step")
            phases.append(override(phase, _times(phase, scale, length) | _times(phase, share, step)))
    settings: dict[str, Any] = {**plan.model_dump(exclude_unset=True, exclude={"phases"}), "phases": phases}
    shortened: Plan = plans.make(Plan, settings)
    return shortened


def _times(phase: Phase, scale: float, *names: str) -> dict[str, Any]:
    """Returns the named settings that are given, times `scale`; what is above 0 stays above it."""
    found: dict[str, Any] = {}
    for name in names:
        value = getattr(phase, name)
        if isinstance(value, tuple):
            found[name] = [max(1, round(item * scale)) for item in value]
        elif name == "epochs" and value is not None:
            found[name] = lengths.times(value, scale)
        elif isinstance(value, float):
            found[name] = value * scale
        elif value is not None:
            found[name] = max(1, round(value * scale)) if value else 0
    return found


def keeping(points: Iterable[Point]) -> list[Point]:
    """Returns the points with each training keeping all states that the phases of any point with it start from."""
    points = list(points)
    needed: dict[str, tuple[set[float], set[int]]] = {}
    for point in points:
        train = _train(point)
        epochs, steps = needed.setdefault(_bare(train), (set(train.keep_epochs), set(train.keep_steps)))
        for phase in point.phases:
            epoch, step = _start(phase, train)
            epochs |= {0 if step == 0 else epoch} - {None}
            steps |= {step} - {None, 0}
    out = []
    for point in points:
        train = _train(point)
        epochs, steps = needed[_bare(train)]
        kept = override(train, {"keep_epochs": sorted(epochs), "keep_steps": sorted(steps)})
        out.append(Point(point.labels, point.seed, (kept, *point.phases[1:])))
    return out


def _start(phase: Phase, train: Train) -> tuple[Any, Any]:
    """Returns the (epoch, step) of the training whose state the phase starts from, both None where it starts from none."""
    if isinstance(phase, Prune):
        return phase.at_epoch, phase.at_step
    return techniques.start(phase, train.epochs) if isinstance(phase, Retrain) else (None, None)


def _train(point: Point) -> Train:
    train = point.phases[0]
    assert isinstance(train, Train)
    return train


def _bare(train: Train) -> str:
    return canonical(train.model_copy(update={"keep_epochs": (0,), "keep_steps": ()}))
