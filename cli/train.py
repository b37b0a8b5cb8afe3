"""`prune train`: a network trained from its initialization."""

from __future__ import annotations

from typing import Annotated

import typer

from pruning import plan
from pruning.record import runs

from . import options, screen_tables
from .inputs import given, length, load_plan, merged
from .screen import Screen
from .shared import SharedAnew, shared_options
from .work import carry_out


@shared_options
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe of `prune list recipes` or a TOML file; its train phase is taken, and options win over it.",
            autocompletion=options.complete(plan.recipe_names),
        ),
    ] = None,
    model: options.Model = None,
    data: options.Data = None,
    epochs: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Length of the training, in epochs (40, 0.25) or steps ('500 steps'); milestones and warm-up of a recipe "
            "scale along, from epochs to epochs.",
            rich_help_panel=options.TRAINING,
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.", rich_help_panel=options.TRAINING)] = None,
    lr: Annotated[float | None, typer.Option(help="Initial learning rate.", rich_help_panel=options.TRAINING)] = None,
    method: options.Method = None,
    sparsity: options.MethodSparsity = None,
    target_sparsity: Annotated[
        float | None,
        typer.Option(
            help="Goal of str, cs and dst, whose sparsity is an outcome: met within 0.25 points by --search.",
            rich_help_panel=options.METHODS,
        ),
    ] = None,
    search: options.Search = 0,
    search_option: options.SearchOption = None,
    finetune_epochs: options.FinetuneEpochs = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    *,
    shared: SharedAnew,
) -> None:
    """Train a network, dense or with a method that prunes during training.

    --set reaches every setting: optimizer, momentum, nesterov, weight_decay, schedule, milestones, gamma,
    warmup_epochs, label_smoothing, split, augment, normalize, keep_epochs (states kept for
    rewinding; 0 is the initialization), model_options.width, data_options.KEY, method_options.KEY and so on.
    """
    if (target_sparsity is None) != (search == 0):
        raise typer.BadParameter("--target-sparsity and --search go together")
    if search_option is not None and not search:
        raise typer.BadParameter("--search-option is for --search")
    flags = given(
        model=model,
        data=data,
        epochs=length(epochs),
        batch_size=batch_size,
        lr=lr,
        method=method,
        sparsity=sparsity,
        seed=seed,
    )
    changes = merged(flags, settings)
    if recipe is not None:
        phase = plan.adjust(load_plan(recipe, shared.trust_code).train, changes)
    elif {"model", "data"} <= changes.keys():
        phase = plan.override(plan.make(plan.Train, {key: changes.pop(key) for key in ("model", "data")}), changes)
    else:
        raise typer.BadParameter("name a RECIPE, or give --model and --data")
    if target_sparsity is not None:
        if shared.dry_run:
            raise typer.BadParameter("a search cannot be shown beforehand: its trials follow from one another")
        phase = _found(phase, target_sparsity, search, search_option, shared)
    phases: list[plan.Phase] = [phase]
    if finetune_epochs:
        if phase.method == "none":
            raise typer.BadParameter("--finetune-epochs follows a --method that prunes")
        phases.append(plan.make(plan.Retrain, {"technique": "fine-tune", "epochs": length(finetune_epochs)}))
    carry_out(phases, None, shared.out, shared)


def _found(phase: plan.Train, goal: float, trials: int, by: str | None, shared: SharedAnew) -> plan.Train:
    """Returns the training whose sparsity met the goal, after showing every trial."""
    from pruning.study import search

    done: list[search.Trial] = []
    screen = Screen(quiet=shared.quiet, phases=trials)
    try:
        with screen:
            best = search.find(
                phase, goal, trials, shared.out, by=by, report=done.append, tell=screen.tell, **shared.where
            )
    finally:
        if done:
            screen.table(*screen_tables.trials(goal, done))
    return runs.train_settings(best.runs[0])
