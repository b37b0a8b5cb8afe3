"""Meeting a sparsity with a method whose sparsity is an outcome: a bracketing search over the one setting that drives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning import engine, methods, runs
from pruning.plan import PlanError, Train, override, suggest

TOLERANCE = 0.0025  # Zimmer et al. (2023) accept a configuration within .25 points of the goal


@dataclass(frozen=True)
class Drive:
    """How a setting moves the sparsity: the first step away from its start, by adding or by a factor; its sign."""

    step: float
    factor: bool  # the step multiplies
    rises: bool  # a greater value gives a sparser network


DRIVES: dict[str, dict[str, Drive]] = {
    "str": {
        "s_init": Drive(2.0, factor=False, rises=True),
        "threshold_decay": Drive(2.0, factor=True, rises=True),  # pulls thresholds that start below 1/2 up to it
    },
    "cs": {"s_0": Drive(0.05, factor=False, rises=False), "l1": Drive(10.0, factor=True, rises=True)},
    "dst": {"alpha": Drive(10.0, factor=True, rises=True)},
}


@dataclass(frozen=True)
class Trial:
    """One training of the search."""

    value: float
    sparsity: float
    accuracy: float
    run: Path


def bracket(
    measure: Callable[[float], float],
    start: float,
    drive: Drive,
    goal: float,
    trials: int,
    tolerance: float = TOLERANCE,
) -> float | None:
    """Returns a value at which `measure` (value -> sparsity) is within `tolerance` of the goal, or None after `trials`.

    Steps of doubling length lead from `start` across the goal; a step that loses sparsity counts as across, since too
    strong a setting can collapse (DST's thresholds start again from 0). Then the bracket is cut: where both ends are
    neither dense nor empty by interpolating the logit of the sparsity, never nearer to an end than a tenth, else in half.
    All on a logarithmic scale where the step is a factor.
    """
    to, back = (math.log, math.exp) if drive.factor else (float, float)
    step = to(drive.step) * (1 if drive.rises else -1)
    near: tuple[float, float] | None = None  # (place, sparsity) of the sparsest trial on the dense side of the goal
    far: tuple[float, float] | None = None  # of the nearest one across it
    place = to(start)
    for _ in range(trials):
        sparsity = measure(back(place))
        if abs(sparsity - goal) <= tolerance + 1e-12:
            return back(place)
        collapsed = near is not None and sparsity < near[1] - 4 * tolerance and (place - near[0]) * step > 0
        if sparsity > goal or collapsed:
            far = (place, sparsity)
        else:
            near = (place, sparsity)
        if near is not None and far is not None:
            place = near[0] + _share(near[1], far[1], goal) * (far[0] - near[0])
        else:
            place += step if near is not None else -step
            step *= 2
        if drive.factor and abs(place) > 300:
            return None
    return None


def _share(near: float, far: float, goal: float) -> float:
    """Returns how far between the ends of a bracket the goal is expected."""
    if near < 0.01 or far > 0.995 or far <= goal:
        return 0.5
    a, b, c = (math.log(s / (1 - s)) for s in (near, far, goal))
    return min(max((c - a) / (b - a), 0.1), 0.9)


def find(
    train: Train, goal: float, trials: int, out: Path, *, by: str | None = None,
    report: Callable[[Trial], None] = lambda trial: None, **options: Any,
) -> Trial:  # fmt: skip
    """Returns the first trial within TOLERANCE of the sparsity; options are those of :func:`engine.advance`.

    Trials start from the training's own setting; `by` names it, where a method has several that drive its sparsity.
    Raises PlanError, which says the best that was reached, where the trials do not suffice.
    """
    if not 0 < goal < 1:
        raise PlanError(f"target sparsity must lie between 0 and 1, not {goal:g}")
    if trials < 1:
        raise PlanError(f"a search needs at least 1 trial, not {trials}")
    if train.method not in DRIVES:
        how = "; give sparsity itself" if train.method in methods.GOAL_METHODS else ""
        raise PlanError(
            f"a target sparsity is searched for with the methods {', '.join(DRIVES)}, not with '{train.method}'{how}"
        )
    drives = DRIVES[train.method]
    name = next(iter(drives)) if by is None else by
    if name not in drives:
        raise PlanError(
            f"'{name}' does not drive the sparsity of method '{train.method}'{suggest(name, drives)}; "
            f"allowed: {', '.join(drives)}"
        )
    own = getattr(methods.options(train), name)
    start = train.weight_decay if own is None else float(own)  # STR's thresholds decay like weights unless told
    if drives[name].factor and start <= 0:
        raise PlanError(f"the search multiplies '{name}': start it above 0, not at {start:g}")
    done: list[Trial] = []

    def measure(value: float) -> float:
        value = float(f"{value:.6g}")
        run = engine.advance(override(train, {f"method_options.{name}": value}), None, out, **options)
        summary = runs.read_summary(run)
        done.append(Trial(value, summary["sparsity"], summary["accuracy"], run))
        report(done[-1])
        return done[-1].sparsity

    if bracket(measure, start, drives[name], goal, trials) is not None:
        return done[-1]
    best = min(done, key=lambda trial: abs(trial.sparsity - goal))
    raise PlanError(
        f"no {name} among {trials} trials gives sparsity {goal:g} within {100 * TOLERANCE:g} points; the best, {name} = "
        f"{best.value:g}, gives {best.sparsity:.4f} with accuracy {best.accuracy:.4f} (run {best.run}); "
        f"search longer, or from there: --set method_options.{name}={best.value:g}"
    )
