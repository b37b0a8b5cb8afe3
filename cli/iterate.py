"""`prune iterate`: cycles of pruning and retraining."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pruning import plan
from pruning.plan import PlanError
from pruning.record import runs

from . import options
from .inputs import given, length, merged, run_folder
from .shared import Shared, shared_options
from .work import carry_out


@shared_options
def iterate(
    run: options.Run,
    sparsity: options.Sparsity,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Share of the remaining weights that each cycle removes. [default: 0.2]",
            rich_help_panel=options.PRUNING,
        ),
    ] = None,
    cycles: Annotated[
        int | None,
        typer.Option(
            help="Number of cycles, each removing the same share, in place of --rate.", rich_help_panel=options.PRUNING
        ),
    ] = None,
    criterion: options.Criterion = None,
    allocation: options.Allocation = None,
    structure: options.Structure = None,
    exclude: options.Exclude = None,
    include: options.Include = None,
    allow_reparametrized: options.AllowReparametrized = False,
    technique: options.Technique = None,
    schedule: options.Schedule = None,
    epochs: options.RetrainEpochs = None,
    settings: options.Set = None,
    *,
    shared: Shared,
) -> None:
    """Prune and retrain in cycles up to a sparsity: iterative magnitude pruning.

    With --rate 0.2 each cycle removes 20 % of the weights that are left; with --cycles J every cycle removes the same
    share. The last cycle ends on the goal exactly. --set takes prune.KEY=VALUE and retrain.KEY=VALUE.
    """
    if rate is not None and cycles is not None:
        raise typer.BadParameter("give --rate or --cycles, not both")
    parent = run_folder(run)
    flags = {
        f"prune.{key}": value
        for key, value in given(criterion=criterion, allocation=allocation, structure=structure).items()
    }
    flags |= {"prune.exclude": exclude} if exclude else {}
    flags |= {"prune.include": include} if include else {}
    flags |= {"prune.allow_reparametrized": True} if allow_reparametrized else {}
    flags |= {
        f"retrain.{key}": value
        for key, value in given(technique=technique, schedule=schedule, epochs=length(epochs)).items()
    }
    tables: dict[str, dict[str, Any]] = {"prune": {}, "retrain": {}}
    for key, value in merged(flags, settings).items():
        head, _, rest = key.partition(".")
        if head not in tables or not rest:
            raise PlanError(f"unknown setting '{key}'; write prune.KEY or retrain.KEY")
        tables[head][rest] = value
    goal = plan.make(plan.Iterate, {**given(rate=rate, cycles=cycles), "sparsity": sparsity, **tables})
    present = runs.read_summary(parent).get("sparsity") or 0.0
    phases = goal.phases(1.0 - present)
    carry_out(phases, parent, shared.out or parent.parent, shared)
