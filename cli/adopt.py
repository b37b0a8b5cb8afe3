"""`prune adopt`: a run made of weights that were trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pruning import plan
from pruning.plan import PlanError
from pruning.record import runs

from . import options, screen_tables
from .inputs import given, load_plan, merged
from .output import emit, emit_json
from .screen import Screen
from .shared import SharedAnew, shared_options
from .work import refuse_dry_download


@shared_options
def adopt(
    weights: Annotated[
        Path | None,
        typer.Argument(
            metavar="WEIGHTS",
            help="A safetensors or torch file, or a folder of transformers; read as data, never as code.",
        ),
    ] = None,
    model: options.Model = None,
    data: options.Data = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="In place of WEIGHTS those that torchvision (IMAGENET1K_V2) or timm (a1_in1k) has for its model, or 'default': "
            "from their cache, or downloaded by them.",
            rich_help_panel=options.NETWORK,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="A recipe or TOML file that says network, data and how the weights were trained.",
            rich_help_panel=options.NETWORK,
            autocompletion=options.complete(plan.recipe_names),
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The state dict that is meant, of a file with several, such as state_dict_ema.",
            rich_help_panel=options.NETWORK,
        ),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Take what fits and leave the rest at its initialization, as of a backbone under a new head.",
            rich_help_panel=options.NETWORK,
        ),
    ] = False,
    masks_from_zeros: Annotated[
        bool,
        typer.Option(
            "--masks-from-zeros",
            help="Take weights that are 0 as pruned, of a network that is sparse already.",
            rich_help_panel=options.PRUNING,
        ),
    ] = False,
    seed: options.Seed = None,
    settings: options.Set = None,
    *,
    shared: SharedAnew,
) -> None:
    """Start from a network that was trained elsewhere: its weights become a run, without training.

    The run is measured on the data, and can be pruned, retrained, counted and exported as any other. Names of the weights
    may have the prefixes of wrappers (module., _orig_mod., model.), and masks of torch.nn.utils.prune are taken over.

    Retraining goes by --technique fine-tune --lr, or a tuned schedule. Techniques that follow the original learning rates
    (lr-rewind, llr, allr) need them: --set epochs=90 --set lr=0.1 --set milestones=[30,60], or --recipe. Weights cannot be
    rewound, as no earlier state is known.
    """
    refuse_dry_download(shared.dry_run, shared.download)
    changes = merged(given(model=model, data=data, seed=seed), settings)
    for name in ("method", "adopted", "keep_epochs", "keep_steps"):
        if name in changes:
            raise PlanError(f"'{name}' is not used by adopt, which trains nothing")
    from pruning import engine
    from pruning.engine.adopting import given_schedule

    known = given_schedule(changes)
    if recipe is not None:
        train, known = plan.adjust(load_plan(recipe, shared.trust_code).train, changes), True
        if train.method != "none":
            raise PlanError(
                f"recipe '{recipe}' prunes during training (method '{train.method}'), and adopt trains nothing"
            )
    elif {"model", "data"} <= changes.keys():
        train = plan.override(plan.make(plan.Train, {name: changes.pop(name) for name in ("model", "data")}), changes)
    else:
        raise typer.BadParameter("give --model and --data, or --recipe")
    wanted: dict[str, Any] = {"key": key, "partial": partial, "zeros": masks_from_zeros, "schedule": known}
    screen = Screen(quiet=shared.quiet, phases=1)
    with screen:
        found = engine.adopt(
            train, shared.out, weights, pretrained=pretrained, dry_run=shared.dry_run, tell=screen.tell, **wanted, **shared.where
        )  # fmt: skip
    if isinstance(found, list):
        if shared.json:
            emit_json({"phases": found})
            return
        screen.table(*screen_tables.preview(found))
        emit(found[-1]["run"])
        return
    if shared.json:
        emit_json(runs.result(runs.read_summary(found)))
        return
    emit(found)
