"""Meeting a sparsity with a method whose sparsity is an outcome: a bracketing search over the one setting that drives it.

The same setting gives other sparsities with other seeds, and the smallest change of it acts like another seed. A trial is
therefore judged by its mean over seeds, as Zimmer et al. (2023) accept a configuration, and the search never trusts one
trial near the goal: it keeps all of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning import engine
from pruning.plan import PlanError, Train, override, suggest
from pruning.record import runs
from pruning.training import methods
from pruning.training.methods import METHODS, Drive

TOLERANCE = 0.0025  # Zimmer et al. (2023) accept a configuration whose mean sparsity is within .25 points of the goal
FAR = 1.0  # logits (odds off by a factor e) from the goal with the first seed: too far for the others to be worth training
REMOTE = 3.0  # logits: a trial that is all but dense or empty for the goal, from which nothing can be interpolated
STUCK = 5  # trials in a row on one side of the goal, after which the other end of the bracket is not trusted
NEAREST = 5  # trials on each side of the goal that the next one is interpolated from


@dataclass(frozen=True)
class Trial:
    """A setting that was tried: means over the seeds that were trained, which are the first alone where it was far off."""

    value: float
    sparsity: float
    metric: float
    runs: tuple[Path, ...]  # one a seed


class Exhausted(PlanError):
    """The goal was not met; `best` is the trial nearest to it."""

    def __init__(self, message: str, best: Trial) -> None:
        super().__init__(message)
        self.best = best


def bracket(
    measure: Callable[[float], float],
    start: float,
    drive: Drive,
    goal: float,
    trials: int,
    tolerance: float = TOLERANCE,
) -> float | None:
    """Returns a value at which `measure` (value -> sparsity) is within `tolerance` of the goal, or None after `trials`.

    Each trial follows from all before it (:func:`following`), so that the same responses give the same trials. Places are
    on a logarithmic scale where the step is a factor.
    """
    to, back = (math.log, math.exp) if drive.factor else (float, float)
    sign = 1 if drive.rises else -1
    step = to(drive.step)
    tried: list[tuple[float, float]] = []  # (place, sparsity); a greater place is meant to be sparser
    place = sign * to(start)
    for _ in range(trials):
        sparsity = measure(back(sign * place))
        if abs(sparsity - goal) <= tolerance + 1e-12:
            return back(sign * place)
        tried.append((place, sparsity))
        place = following(tried, step, goal)
        if drive.factor and abs(place) > 300:
            return None
    return None


def following(tried: Sequence[tuple[float, float]], step: float, goal: float) -> float:
    """Returns the place to try next, after trials (place, sparsity) whose sparsity rises with the place, noise apart.

    Until both sides of the goal are known, steps of doubling length lead on from a network that is all but dense; where a
    step makes a sparser one no sparser it has gone too far (too strong a setting can collapse: thresholds start again
    from 0), and the search looks beside the sparsest. Then the bracket is cut by interpolating the logit, a quarter of it
    from either end at least. Where noise shows - trials of both sides lie among each other, or STUCK trials in a row fell
    on one side, so that the other end seems to have been a lucky one - the place follows from the centres of the
    trials nearest to the goal on either side, the nearer the heavier: one misleading trial moves a centre only as far as
    the others let it. A place keeps a tenth of the gap that it falls into away from either end.
    """
    points = sorted(tried)
    places = [place for place, _ in points]
    reach = step * 2 ** (len(tried) - 1)
    above = [point for point in points if point[1] > goal]
    below = [point for point in points if point[1] <= goal and (not above or point[0] < above[-1][0])]
    if not below:
        return places[0] - reach
    if not above:
        logits = [_logit(sparsity) for _, sparsity in points]
        plateau = [i for i, logit in enumerate(logits) if logit >= max(logits) - 0.1]
        peak = plateau[-1] if max(logits) < -2 else plateau[0]
        if peak == len(points) - 1:
            return places[-1] + reach
        if peak == 0:
            return places[0] - reach
        left, right = places[peak] - places[peak - 1], places[peak + 1] - places[peak]
        return places[peak] + right / 2 if right >= left else places[peak] - left / 2
    sides = [[point for point in side if _distance(point, goal) < REMOTE] for side in (below, above)]
    (x, a), (y, b) = ((place, _logit(sparsity)) for place, sparsity in (max(below), min(above)))
    latest = {sparsity > goal for _, sparsity in tried[-STUCK:]}
    if all(sides) and (x > y or (len(tried) > STUCK and len(latest) == 1)):
        (x, a), (y, b) = (_centre(side, goal) for side in sides)
    place = x + (y - x) * min(max((_logit(goal) - a) / (b - a), 0.25), 0.75)
    after = next(i for i, other in enumerate(places) if other > place)
    gap = places[after] - places[after - 1]
    return min(max(place, places[after - 1] + gap / 10), places[after] - gap / 10)


def _centre(side: Sequence[tuple[float, float]], goal: float) -> tuple[float, float]:
    """Returns mean place and mean logit of the NEAREST trials of one side, the nearer to the goal the heavier."""
    nearest = sorted(side, key=lambda point: _distance(point, goal))[:NEAREST]
    weights = [1 / (_distance(point, goal) + 0.1) for point in nearest]
    total = math.fsum(weights)
    place = math.fsum(w * x for w, (x, _) in zip(weights, nearest, strict=True)) / total
    return place, math.fsum(w * _logit(s) for w, (_, s) in zip(weights, nearest, strict=True)) / total


def _distance(point: tuple[float, float], goal: float) -> float:
    return abs(_logit(point[1]) - _logit(goal))


def _logit(sparsity: float) -> float:
    """Returns log s/(1-s), of what is all but dense or empty that of .0001 or .9999."""
    held = min(max(sparsity, 1e-4), 1 - 1e-4)
    return math.log(held / (1 - held))


def find(
    train: Train, goal: float, trials: int, out: Path, *, by: str | None = None, seeds: Sequence[int] | None = None,
    report: Callable[[Trial], None] = lambda trial: None, **options: Any,
) -> Trial:  # fmt: skip
    """Returns the first trial whose mean sparsity over the seeds, the training's own unless given, is within TOLERANCE.

    Trials start from the training's own setting; `by` names it, where a method has several that drive its sparsity.
    A trial whose first seed misses by FAR is not repeated with the others. Options are those of :func:`engine.advance`.
    Raises Exhausted, which says the best that was reached, where the trials do not suffice, PlanError for what cannot be
    searched for.
    """
    if not 0 < goal < 1:
        raise PlanError(f"target sparsity must lie between 0 and 1, not {goal:g}")
    if trials < 1:
        raise PlanError(f"a search needs at least 1 trial, not {trials}")
    name, drive, start = driven(train, by)
    wanted = [train.seed] if seeds is None else list(seeds)
    done: list[Trial] = []

    def measure(value: float) -> float:
        value = float(f"{value:.6g}")
        folders: list[Path] = []
        results: list[dict[str, Any]] = []
        for seed in wanted:
            phase = override(train, {f"method_options.{name}": value, "seed": seed})
            folders.append(engine.advance(phase, None, out, **options))
            results.append(runs.read_summary(folders[-1]))
            if abs(_logit(results[0]["sparsity"]) - _logit(goal)) > FAR:
                break
        means = [statistics.fmean(result[key] for result in results) for key in ("sparsity", "metric")]
        done.append(Trial(value, means[0], means[1], tuple(folders)))
        report(done[-1])
        return done[-1].sparsity

    if bracket(measure, start, drive, goal, trials) is not None:
        return done[-1]
    whole = [trial for trial in done if len(trial.runs) == len(wanted)]
    best = min(whole or done, key=lambda trial: abs(trial.sparsity - goal))
    name_of = runs.read_summary(best.runs[0])["metric_name"]
    over = f" over {len(best.runs)} seeds" if len(best.runs) > 1 else ""
    raise Exhausted(
        f"no {name} among {len(done)} trials gives sparsity {goal:g} within {100 * TOLERANCE:g} points; the best, {name} = "
        f"{best.value:g}, gives {best.sparsity:.4f} with {name_of} {best.metric:.4f}{over} (run {best.runs[0]}); "
        f"search longer, or from there: --set method_options.{name}={best.value:g}",
        best,
    )


def driven(train: Train, by: str | None) -> tuple[str, Drive, float]:
    """Returns the name of the option that the search moves, how it acts, and where it starts; PlanError where there is none."""
    entry = METHODS.find(train.method)
    drives = entry.drives
    if not drives:
        how = "; give sparsity itself" if entry.goal else ""
        users = ", ".join(other for other, found in METHODS.items() if found.drives)
        raise PlanError(f"a target sparsity is searched for with the methods {users}, not with '{train.method}'{how}")
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
    return name, drives[name], start
