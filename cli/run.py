"""`prune run`: a whole plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pruning import plan

from . import options
from .inputs import given, merged
from .work import carry_out


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="PLAN",
            help="A recipe of `prune list recipes` or a TOML file.",
            autocompletion=options.complete(plan.recipe_names),
        ),
    ],
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
    """Carry out a plan: its training, prunings and retrainings one after another.

    Phases that are done already are reused, an interrupted one is resumed. --set train.KEY, prune.KEY and retrain.KEY
    reach every phase of that kind, phases.INDEX.KEY the one with that index, counted from 0.
    """
    changes = merged({f"train.{key}": value for key, value in given(seed=seed).items()}, settings)
    whole = plan.override_plan(plan.load_plan(recipe), changes)
    where = {"device": device, "data_dir": data_dir, "trust_code": trust_code}
    carry_out(whole, None, out, dry_run=dry_run, track=track, json=json, quiet=quiet, **where)
