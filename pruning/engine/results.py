"""The result of a phase: what the network scores and what it costs, under the keys of `runs.RESULT_KEYS`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruning import ops, trees
from pruning.deciding.filters import densities, filters_kept, neurons_by_sparsity
from pruning.engine.session import Workbench
from pruning.flops import count_macs
from pruning.masks import Masks, model_sparsity, prunable, unpruned
from pruning.masks.prunable import output_axes
from pruning.masks.reparametrized import reparametrized
from pruning.plan import SCHEMA, PlanError
from pruning.record import checkpoint, runs, whole
from pruning.training import loop


def measure(bench: Workbench, network: nn.Module, masks: Masks | None, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the network's metric, loss, sparsity and MACs.

    Sparsity is over the masked tensors, and `model_sparsity` over all parameters of two or more dimensions, of which
    `unpruned` lists those without a mask; of a dense network both are 0. `metric` and `loss` are of the test examples,
    `speedup` is dense over nonzero MACs: theoretical. Where filters are gone, `sparsity_with_inputs` also counts the weights
    that would read them.
    """
    data, device, precision = bench.data, bench.device, bench.train.precision
    task, size = bench.task, bench.task.evaluation_batch
    metric, loss = loop.evaluate(network, data.batches("test", size), task, device, precision)
    val_metric = None
    if data.sizes["validation"]:
        value, _ = loop.evaluate(network, data.batches("validation", size), task, device, precision)
        val_metric = value if math.isfinite(value) else None
    is_accuracy = task.metric_name == "accuracy"
    counts = (
        masks.counts()
        if masks is not None
        else {n: (w.numel(), w.numel()) for n, w in prunable(network, exclude).items()}
    )
    kept, total = sum(k for k, _ in counts.values()), sum(n for _, n in counts.values())
    report = count_macs(network, data.example(), masks)
    structure: dict[str, Any] = {}
    changed = [] if masks is None else reparametrized(network, masks, lambda model: task.forward(model, data.example()))
    if changed:  # their zeros are none where the network multiplies
        structure["reparametrized"] = changed
    if masks is not None and masks.extra:  # filters are gone; what read them is idle, which the masks do not count
        structure["sparsity_with_inputs"] = 1.0 - densities(network, masks)[1]
    return {
        "accuracy": metric if is_accuracy else None,
        "loss": loss,
        "val_accuracy": val_metric if is_accuracy else None,
        "metric": metric,
        "metric_name": task.metric_name,
        "metric_scale": task.metric_scale,
        "val_metric": val_metric,
        "sparsity": 1.0 - kept / total,
        "model_sparsity": model_sparsity(network, {n: c for n, c in counts.items() if n not in changed}),
        "compression": total / kept if kept else None,
        "params": report.params,
        "nonzero": report.nonzero,
        "macs": report.macs,
        "sparse_macs": report.sparse_macs,
        "speedup": report.speedup if report.sparse_macs else None,
        "layers": {name: list(count) for name, count in counts.items()},
        "unpruned": unpruned(network, counts),
        **structure,
    }


def neurons(network: nn.Module, masks: Masks | None, include: Iterable[str] = ()) -> dict[str, Any]:
    """Returns {"neurons": what the masks leave of filters and neurons}; nothing of a dense network.

    `dead` holds {layer: [those with no weight left, all]}, `by_sparsity` the counts of :func:`neurons_by_sparsity`. `include` are
    the patterns that parameters were made prunable with.
    """
    if masks is None:
        return {}
    axes = output_axes(network, include)
    dead = {name: [total - kept, total] for name, (kept, total) in filters_kept(masks, axes).items()}
    return {"neurons": {"dead": dead, "by_sparsity": neurons_by_sparsity(masks, axes)}}


def metric_on_test(bench: Workbench, network: nn.Module) -> float:
    """Returns the network's metric on the test examples, as it stands."""
    batches = bench.data.batches("test", bench.task.evaluation_batch)
    return loop.evaluate(network, batches, bench.task, bench.device, bench.train.precision)[0]


def summarize(bench: Workbench, run: Path, phase: str, measured: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Returns the whole of summary.json: the result's keys, layer counts, and what a reader needs to build the network."""
    summary = {
        "schema": SCHEMA,
        "run": run.name,
        "phase": phase,
        "model": bench.train.model,
        "data": bench.train.data,
        "seed": bench.train.seed,
        "device": str(bench.device),
        "backend": ops.backend(bench.device),
        **measured,
        "input": _listed(bench.data.shape),
        "input_types": trees.types(bench.data.example()),
        "classes": bench.data.classes,
        "task": bench.task_name,
        **more,
    }
    if not math.isfinite(summary["metric"]):
        raise PlanError(
            f"the test {bench.task.metric_name} of run '{run}' is {summary['metric']}: task '{bench.task_name}' must give a number"
        )
    if not math.isfinite(summary["loss"]):
        raise PlanError(f"the test loss of run '{run}' is {summary['loss']}: the network is broken")
    return summary


def _listed(shape: Any) -> Any:
    """Returns shapes as JSON has them."""
    if isinstance(shape, dict):
        return {key: _listed(inner) for key, inner in shape.items()}
    return [_listed(inner) if isinstance(inner, (tuple, list, dict)) else inner for inner in shape]


def load_state(run: Path, network: nn.Module) -> tuple[Masks | None, dict[str, Tensor]]:
    """Loads the run's weights into the network; returns its masks and its optimizer's tensors, each checked against the weights."""
    path, masks, momenta = whole.held_together(run, runs.WEIGHTS, runs.MASKS, runs.MOMENTA)
    if path is None:
        raise PlanError(f"{run / runs.WEIGHTS} does not exist")
    tensors, _ = checkpoint.load(path)
    checkpoint.restore(network, tensors, path)
    return _masks(run, masks, network), {} if momenta is None else checkpoint.load(momenta)[0]


def load_masks(run: Path, network: nn.Module) -> Masks | None:
    """Returns the run's masks, or None where it is dense; raises PlanError where they do not fit or a pruned weight is not +0."""
    return _masks(run, whole.held(run, runs.MASKS), network)


def _masks(run: Path, path: Path | None, network: nn.Module) -> Masks | None:
    if path is None:
        return None
    masks = Masks.load(path)
    try:
        masks.check(network)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None
    if bad := masks.violations(network.state_dict()):
        raise PlanError(f"{run}: pruned weights of '{bad[0]}' are not +0; masks and weights disagree")
    return masks.to(next(network.parameters()).device)
