"""Pruned filters removed for real: a run's network made smaller, kept in a folder of its own, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning import models
from pruning.deciding.filters import refit, shrink
from pruning.deciding.filters.shrink_by_library import shrink_with_library
from pruning.engine import trial
from pruning.engine.reading import load_model
from pruning.engine.results import load_masks
from pruning.engine.session import open_session, recorded
from pruning.flops import count_macs
from pruning.plan import SCHEMA, PlanError
from pruning.record import checkpoint, runs, whole, writing
from pruning.record.schemas import Shrunk
from pruning.record.stamp import place
from pruning.record.text import checked, read_object
from pruning.record.trust import allow

RECORD = "shrink.json"
EXAMPLES = 8  # random images that the outputs are compared on


def shrink_run(run: Path | str, to: Path | None = None, *, library: bool = False, trust_code: bool = False) -> Path:
    """Returns the folder of the run's network without its dead filters: weights.safetensors, and shrink.json on what it is.

    The folder is `to`, or the run's with -shrunk behind its name; a finished one of the same run is made anew. `library`
    leaves it to torch-pruning (extra `structured`) to find out what belongs together.
    """
    run = runs.check_run(Path(run))
    folder = run.with_name(f"{run.name}-shrunk") if to is None else Path(to)
    if folder.exists() and not (folder / RECORD).exists():
        raise PlanError(f"'{folder}' exists and is no shrunk network; name another folder")
    network = load_model(run, trust_code=trust_code)
    masks = load_masks(run, network)
    if masks is None:
        raise PlanError(f"run '{run}' is not pruned (prune prune RUN --structure filters --sparsity S)")
    summary = runs.read_network(run)
    if isinstance(summary["input"], dict) or not all(isinstance(size, int) for size in summary["input"]):
        raise PlanError(f"run '{run}' is of a network with several inputs, whose filters cannot be removed")
    example = torch.randn(EXAMPLES, *summary["input"], generator=torch.Generator().manual_seed(0))
    small, difference = (shrink_with_library if library else shrink)(network, masks, example)
    was = {name: list(parameter.shape) for name, parameter in network.named_parameters()}
    now = {name: list(parameter.shape) for name, parameter in small.named_parameters()}
    if now == was:
        raise PlanError(f"run '{run}' has no dead filter that can be removed (prune prune RUN --structure filters)")
    train, code, _ = recorded(open_session(device="cpu", trust_code=trust_code), run)
    before, after = count_macs(network, example[:1]), count_macs(small, example[:1])
    record = {
        "schema": SCHEMA,
        "run": run.name,
        "model": place(train.model, code.get("model_code")),
        "model_code": train.model_code,
        "model_options": train.model_options,
        "input": summary["input"],
        "classes": summary["classes"],
        "task": summary.get("task", "classification"),
        "difference": difference,
        "examples": EXAMPLES,
        "params": [before.params, after.params],
        "macs": [before.macs, after.macs],
        "layers": {name: [was.get(name), shape] for name, shape in now.items() if was.get(name) != shape},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)  # written last: it says that the folder is whole
    checkpoint.save(folder / runs.WEIGHTS, checkpoint.state(small))
    writing.write_json(folder / RECORD, {**record, "files": whole.files(folder)})
    return folder


def read_shrunk(folder: Path | str) -> dict[str, Any]:
    """Returns the record of a folder that :func:`shrink_run` made."""
    path = Path(folder) / RECORD
    if not path.is_file():
        raise PlanError(f"'{folder}' is no shrunk network: it has no {RECORD}")
    record = read_object(path)
    checked(Shrunk, record, path)
    return record


def load_shrunk(folder: Path | str, trust_code: bool = False) -> nn.Module:
    """Returns the smaller network of a folder that :func:`shrink_run` made, in evaluation mode; needs no data and no run."""
    record = read_shrunk(folder)
    allow([record["model"]], trust_code, f"'{folder}'")
    weights = Path(folder) / runs.WEIGHTS
    if record.get("files") is not None:  # recorded by later versions
        if runs.WEIGHTS not in record["files"]:
            raise PlanError(f"{Path(folder) / RECORD} is damaged: 'files' lacks {runs.WEIGHTS}")
        whole.compare(weights, record["files"][runs.WEIGHTS], f"'{folder}'", RECORD)
    network = models.build(
        record["model"],
        tuple(record["input"]),
        record["classes"],
        options=record["model_options"],
        seed=0,
        trial=trial.of_record(record),
    )
    refit(network, checkpoint.load(weights)[0])
    return network.eval()
