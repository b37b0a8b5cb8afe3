"""Plans side by side, as in Table 2 of Zimmer et al. (2023): throughput, accuracy, speedup, sparsity, stability over seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pruning import engine
from pruning.engine.lookahead import look_ahead
from pruning.engine.session import open_session
from pruning.events import Warned, silent
from pruning.plan import Phase, Plan, PlanError, Prune, Retrain, Train, lengths, make, override
from pruning.record import runs
from pruning.study import search
from pruning.study.spread import Spread, spread
from pruning.training.methods import METHODS

MEASURED = ("images_per_second", "accuracy", "metric", "speedup", "sparsity", "model_sparsity", "stability")


def with_goal(plan: Plan, sparsity: float) -> Plan:
    """Returns the plan aimed at a sparsity: the training's goal, or all its prunings on the ladder density^(j/J)."""
    count = sum(isinstance(phase, Prune) for phase in plan.phases)
    done, phases = 0, []
    for phase in plan.phases:
        if isinstance(phase, Train | Retrain) and METHODS.find(phase.method).goal:
            phase = override(phase, {"sparsity": sparsity})
        if isinstance(phase, Prune):
            done += 1
            goal = sparsity if done == count else 1.0 - (1.0 - sparsity) ** (done / count)
            phase = override(phase, {"sparsity": round(goal, 12)})
        phases.append(phase)
    return _replaced(plan, phases)


def method_of(plan: Plan) -> str:
    """Returns the method that prunes during one of the plan's phases, "none" where prune phases do."""
    used = [phase.method for phase in plan.phases if isinstance(phase, Train | Retrain) and phase.method != "none"]
    return used[0] if used else "none"


def fine_tuned(plan: Plan, epochs: int | float | str) -> Plan:
    """Returns the plan with a fine-tuning of `epochs` at its end: constant, at the least rate of its training."""
    if method_of(plan) == "none":
        raise PlanError(f"fine-tuning follows a method that prunes during training; '{plan.name}' trains without one")
    return _replaced(plan, [*plan.phases, make(Retrain, {"technique": "fine-tune", "epochs": epochs})])


def by_method(plan: Plan, methods: Sequence[str], sparsity: float | None) -> list[Plan]:
    """Returns the plan's training once with each method, at the method's own default options."""
    out = []
    for method in methods:
        goal = sparsity if METHODS.find(method).goal else None
        options: dict[str, Any] = {
            "method": method,
            "method_options": {},
            "sparsity": goal,
            "exclude": (),
            "include": (),
        }
        train = override(plan.train, {key: value for key, value in options.items() if value is not None})
        out.append(make(Plan, {"name": f"{plan.name}:{method}", "phases": [train]}))
    return out


def is_outcome(plan: Plan) -> bool:
    """Returns whether the plan's sparsity follows from a method's settings and no phase is told one."""
    return bool(METHODS.find(method_of(plan)).drives) and not any(isinstance(phase, Prune) for phase in plan.phases)


def compare(
    plans: Sequence[Plan], goals: Sequence[float], seeds: Sequence[int], out: Path, *,
    finetune_epochs: int | float | str | None = None, trials: int = 0, by: str | None = None, per_seed: bool = False,
    report: Callable[[Plan, float, search.Trial], None] = lambda plan, goal, trial: None, **options: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Returns a row per plan and goal: its name, the goal, and a :class:`Spread` for each of MEASURED over the seeds.

    Without goals every plan keeps its own. Where a method's sparsity is an outcome, `trials` settings at most are tried
    (of `by` where the method has it, else of its first that drives it) for one whose mean sparsity over the seeds meets
    the goal, as in the paper, or with `per_seed` for one per seed; `report` receives each. Where none does, the nearest is
    taken, as there, and a warning told. The row's `setting` holds the values {option: one a seed}. `finetune_epochs` of fine-tuning
    follow every training with a method, and the better accuracy of before and after counts, as in the paper (3.3).
    Options are those of :func:`pruning.engine.advance`.
    """
    wanted: list[float | None] = [*goals] or [None]
    driven = _driven(plans, goals, trials, by)
    rows = []
    for plan in plans:
        for goal in wanted:
            values: dict[int, float] = {}  # by seed
            name = driven.get(plan.name, "")
            if goal is not None and name:
                for group in [[seed] for seed in seeds] if per_seed else [list(seeds)]:
                    value = _searched(plan, goal, group, trials, out, name, report, options)
                    values |= {seed: value for seed in group}
            aimed = _aimed(plan, goal, finetune_epochs)
            tuned = bool(finetune_epochs) and method_of(plan) != "none"
            results = []
            for seed in seeds:
                own = {f"method_options.{name}": values[seed]} if values else {}
                phases = _seeded(aimed, {"seed": seed, **own})
                results.append(_result(engine.run(_replaced(aimed, phases), out, **options), tuned))
            setting = {name: [values[seed] for seed in seeds]} if values else None
            rows.append(_row(plan, goal, results) | {"setting": setting})
    return rows


def planned(
    plans: Sequence[Plan], goals: Sequence[float], seeds: Sequence[int], out: Path, *,
    finetune_epochs: int | float | str | None = None, **options: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Returns what :func:`compare` without a search would do, and writes nothing: a row per plan, goal and seed.

    Keys: plan, goal, seed, phases (as of :func:`pruning.engine.preview`).
    """
    _driven(plans, goals, 0, None)
    session = open_session(**options)
    rows = []
    wanted: list[float | None] = [*goals] or [None]
    for plan, goal in itertools.product(plans, wanted):
        aimed = _aimed(plan, goal, finetune_epochs)
        for seed in seeds:
            phases = look_ahead(session, _seeded(aimed, {"seed": seed}), None, out)
            rows.append({"plan": plan.name, "goal": goal, "seed": seed, "phases": phases})
    return rows


def _aimed(plan: Plan, goal: float | None, finetune: int | float | str | None) -> Plan:
    """Returns the plan with its goal, and with the fine-tuning that follows a method."""
    aimed = plan if goal is None else with_goal(plan, goal)
    return fine_tuned(aimed, finetune) if finetune and method_of(plan) != "none" else aimed


def _seeded(plan: Plan, changes: dict[str, Any]) -> list[Phase]:
    """Returns the plan's phases, its training changed."""
    return [override(plan.train, changes), *plan.phases[1:]]


def _driven(plans: Sequence[Plan], goals: Sequence[float], trials: int, by: str | None) -> dict[str, str]:
    """Returns {plan: option that its search moves} of the plans whose sparsity is an outcome; refuses what cannot be done."""
    outcomes = [plan for plan in plans if is_outcome(plan)]
    if not trials:
        if goals and outcomes:
            raise PlanError(
                f"the sparsity of '{outcomes[0].name}' is an outcome of its settings: give --search N to meet the goals"
            )
        return {}
    if not goals:
        raise PlanError("a search needs a goal: give --sparsity")
    if not outcomes:
        raise PlanError(
            f"there is nothing to search for: the sparsity of '{plans[0].name}' is no outcome of its settings"
        )
    having = [plan for plan in outcomes if by in METHODS.find(method_of(plan)).drives]
    return {plan.name: search.driven(plan.train, by if plan in having or not having else None)[0] for plan in outcomes}


def _searched(
    plan: Plan, goal: float, seeds: Sequence[int], trials: int, out: Path, by: str,
    report: Callable[[Plan, float, search.Trial], None], options: dict[str, Any],
) -> float:  # fmt: skip
    """Returns the value that meets the goal in the mean over the seeds; where none does, the nearest, with a warning."""

    def each(trial: search.Trial) -> None:
        report(plan, goal, trial)

    try:
        return search.find(plan.train, goal, trials, out, by=by, seeds=seeds, report=each, **options).value
    except search.Exhausted as error:
        options.get("tell", silent)(Warned(f"{plan.name}: {error}"))
        return error.best.value


def stability(before: float, after: float) -> float:
    """Returns 1 - (t_pre - t_post) / t_pre (Zimmer et al. 2023, Definition A.1), 1 where pruning does not hurt.

    Of a metric that is not above 0 before, and less after, it is nan.
    """
    if after >= before:
        return 1.0
    return after / before if before > 0 else math.nan


def _result(folders: Sequence[Path], tuned: bool) -> dict[str, Any]:
    """Returns what one plan with one seed gave."""
    summaries = [runs.read_summary(folder) for folder in folders]
    last = summaries[-1]
    metric = max(last["metric"], summaries[-2]["metric"]) if tuned else last["metric"]
    trained = [s for s in summaries if s["images_per_second"]]
    if tuned:
        trained = trained[:-1]  # plain training under masks: no part of the method
    time = sum(s["epochs"] / s["images_per_second"] for s in trained)
    before, after = None, 0.0
    for summary in summaries:
        known = summary.get("metric_before_prune", summary.get("accuracy_before_prune"))
        if known is not None:
            before, after = known, summary["metric"]
    for earlier, later in itertools.pairwise(summaries):
        if later["phase"] == "prune":
            before, after = earlier["metric"], later["metric"]
    return {
        "images_per_second": sum(s["epochs"] for s in trained) / time if time else None,
        "accuracy": metric if last["metric_name"] == "accuracy" else None,
        "metric": metric,
        "metric_name": last["metric_name"],
        "metric_scale": last["metric_scale"],
        "speedup": last["speedup"],
        "sparsity": last["sparsity"],
        "model_sparsity": last.get("model_sparsity"),
        "stability": None if before is None else stability(before, after),
        "epochs": lengths.total(summary["epochs"] for summary in summaries),
        "run": str(folders[-1]),
    }


def _row(plan: Plan, goal: float | None, results: list[dict[str, Any]]) -> dict[str, Any]:
    spreads = {key: over_seeds([r[key] for r in results]) for key in MEASURED}
    parts = [phase.epochs or plan.train.epochs for phase in plan.phases if not isinstance(phase, Prune)]
    in_steps = any(isinstance(length, str) for length in parts)
    epochs = results[0]["epochs"] if in_steps else lengths.total(parts)
    runs_of = [r["run"] for r in results]
    return {
        "plan": plan.name,
        "method": method_of(plan),
        "goal": goal,
        "epochs": epochs,
        **spreads,
        "metric_name": results[0]["metric_name"],
        "metric_scale": results[0]["metric_scale"],
        "setting": None,
        "runs": runs_of,
    }


def over_seeds(values: Sequence[float | None]) -> Spread | None:
    """Returns mean and sample standard deviation; None where a value is missing or not finite."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return spread(known) if len(known) == len(values) else None


def _replaced(plan: Plan, phases: Sequence[Phase]) -> Plan:
    settings = {**plan.model_dump(exclude_unset=True, exclude={"phases"}), "phases": list(phases)}
    return make(Plan, settings)
