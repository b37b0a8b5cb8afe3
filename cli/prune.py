"""`prune prune`: weights removed from a trained network."""

from __future__ import annotations

import typer

from pruning import plan

from . import options, scoring_options
from .inputs import given, merged, run_folder
from .inputs import layer_rates as read_rates
from .shared import Shared, shared_options
from .work import carry_out


@shared_options
def prune(
    run: options.Run,
    sparsity: options.PruneSparsity = None,
    criterion: options.Criterion = None,
    allocation: options.Allocation = None,
    structure: options.Structure = None,
    filter_norm: options.FilterNorm = None,
    filter_rates: options.FilterRates = None,
    filter_level: options.FilterLevel = None,
    exclude: options.Exclude = None,
    include: options.Include = None,
    allow_reparametrized: options.AllowReparametrized = False,
    rounds: options.Rounds = None,
    scoring_mode: scoring_options.ScoringMode = None,
    samples_per_class: scoring_options.SamplesPerClass = None,
    scoring_batch: scoring_options.ScoringBatch = None,
    ablation: options.Ablation = None,
    min_per_layer: options.MinPerLayer = None,
    layer_rates: options.LayerRates = None,
    at_epoch: options.AtEpoch = None,
    at_step: options.AtStep = None,
    settings: options.Set = None,
    *,
    shared: Shared,
) -> None:
    """Remove weights from a trained network until a share of them is gone.

    The sparsity is an absolute goal, met exactly: of N prunable weights round((1 - sparsity) x N) stay. Weights that an
    earlier pruning removed stay removed. Zeros alone make no network faster: `prune flops` counts what they could save.

    With --structure filters whole filters and neurons go, of those that only other layers read; `prune shrink` then makes
    a smaller network.
    """
    if sparsity is None and filter_rates is None and not any(s.startswith("filter_rates=") for s in settings or ()):
        raise typer.BadParameter("Missing option '--sparsity' (or --filter-rates)")
    parent = run_folder(run)
    flags = given(
        sparsity=sparsity,
        criterion=criterion,
        allocation=allocation or ("rates" if layer_rates else None),
        structure=structure or ("filters" if filter_rates else None),
        filter_norm=filter_norm,
        filter_rates=filter_rates,
        filter_level=filter_level,
        exclude=exclude or None,
        include=include or None,
        allow_reparametrized=allow_reparametrized or None,
        rounds=rounds,
        scoring_mode=scoring_mode,
        samples_per_class=samples_per_class,
        scoring_batch=scoring_batch,
        ablation=ablation,
        min_per_layer=min_per_layer,
        layer_rates=read_rates(layer_rates),
        at_epoch=at_epoch,
        at_step=at_step,
    )
    phase = plan.make(plan.Prune, merged(flags, settings))
    carry_out([phase], parent, shared.out or parent.parent, shared)
