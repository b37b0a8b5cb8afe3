"""Finished runs read back: the network, its evaluation, and what its masks leave of the structure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torch import nn

from pruning.deciding.filters import filters_kept, neuron_collapse
from pruning.engine.results import load_masks, load_state, measure, summarize
from pruning.engine.session import build_recorded, open_session, recorded, workbench
from pruning.masks import Masks, empty_layers, output_axes, prunable
from pruning.record import runs


def load_model(run: Path | str, trust_code: bool = False, device: str = "cpu") -> nn.Module:
    """Returns the run's network with its weights, pruned ones +0, on the device, in evaluation mode."""
    session = open_session(device=device, trust_code=trust_code)
    run = runs.check_run(Path(run))
    network = build_recorded(session, run)
    load_state(run, network)
    return network.eval()


def evaluate_run(run: Path | str, **options: Any) -> dict[str, Any]:
    """Returns the result (`runs.RESULT_KEYS`) of a finished run, measured anew from its files; options as of advance()."""
    session = open_session(**options)
    run = runs.check_run(Path(run))
    train, code, data_dir = recorded(session, run)
    where = workbench(session, train, code, data_dir)
    network = where.build(train.seed)
    masks, _ = load_state(run, network)
    started = time.perf_counter()
    measured = measure(where, network, masks)
    stored = runs.read_summary(run)
    summary = summarize(where, run, stored["phase"], measured, epochs=stored["epochs"])
    return runs.result({**summary, "run": str(run), "seconds": time.perf_counter() - started})


def structure(run: Path | str, trust_code: bool = False) -> dict[str, Any]:
    """Returns what a run's masks leave of its layers: layers (name, kept, weights, filters_kept, filters), layers_gone,
    neuron_collapse, sparsity_with_inputs (None where no filter was pruned)."""
    run = runs.check_run(Path(run))
    network = load_model(run, trust_code=trust_code)
    masks = load_masks(run, network) or Masks.full(prunable(network))
    phases = [runs.read_phase(folder) for folder in runs.history(run)]
    axes = output_axes(network, [pattern for phase in phases for pattern in phase.include])
    filters = filters_kept(masks, axes)
    rows = []
    for name, (kept, total) in masks.counts().items():
        left, number = filters[name]
        rows.append({"name": name, "kept": kept, "weights": total, "filters_kept": left, "filters": number})
    return {
        "layers": rows,
        "layers_gone": empty_layers(masks),
        "neuron_collapse": neuron_collapse(masks, axes),
        "sparsity_with_inputs": runs.read_summary(run).get("sparsity_with_inputs"),
    }
