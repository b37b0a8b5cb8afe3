"""`prune run`: a whole plan."""

from __future__ import annotations

from typing import Annotated

import typer

from pruning import plan

from . import options
from .inputs import given, load_plan, merged
from .shared import SharedAnew, shared_options
from .work import carry_out


@shared_options
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
    *,
    shared: SharedAnew,
) -> None:
    """Carry out a plan: its training, prunings and retrainings one after another.

    Phases that are done already are reused, an interrupted one is resumed. --set train.KEY, prune.KEY and retrain.KEY
    reach every phase of that kind, phases.INDEX.KEY the one with that index, counted from 0.
    """
    changes = merged({f"train.{key}": value for key, value in given(seed=seed).items()}, settings)
    whole = plan.override_plan(load_plan(recipe, shared.trust_code), changes)
    carry_out(whole, None, shared.out, shared)
