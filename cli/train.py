"""`prune train`: a network trained from its initialization."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pruning import plan

from . import options
from .inputs import given, merged
from .work import carry_out


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
        int | None,
        typer.Option(
            help="Length of the training; milestones and warm-up of a recipe scale along.",
            rich_help_panel=options.TRAINING,
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.", rich_help_panel=options.TRAINING)] = None,
    lr: Annotated[float | None, typer.Option(help="Initial learning rate.", rich_help_panel=options.TRAINING)] = None,
    method: Annotated[
        str | None,
        options.named(
            plan.MethodName,
            "Method that prunes during training, to --set sparsity=S, with options --set method_options.KEY=VALUE.",
            options.TRAINING,
        ),
    ] = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    out: options.Out = Path("runs"),
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    trust_code: options.TrustCode = False,
    dry_run: options.DryRun = False,
    track: options.Track = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a network, dense or with a method that prunes during training.

    --set reaches every setting: optimizer, momentum, nesterov, weight_decay, schedule, milestones, gamma,
    warmup_epochs, label_smoothing, split, augment, normalize, keep_epochs (states kept for
    rewinding; 0 is the initialization), model_options.width, data_options.KEY and so on.
    """
    flags = given(model=model, data=data, epochs=epochs, batch_size=batch_size, lr=lr, method=method, seed=seed)
    changes = merged(flags, settings)
    if recipe is not None:
        phase = plan.adjust(plan.load_plan(recipe).train, changes)
    elif {"model", "data"} <= changes.keys():
        phase = plan.override(plan.make(plan.Train, {key: changes.pop(key) for key in ("model", "data")}), changes)
    else:
        raise typer.BadParameter("name a RECIPE, or give --model and --data")
    where = {"device": device, "data_dir": data_dir, "trust_code": trust_code}
    carry_out([phase], None, out, dry_run=dry_run, track=track, json=json, quiet=quiet, **where)
