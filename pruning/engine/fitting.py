"""Training inside a run folder: the optimizer, the log, the kept epochs, and going on after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.engine.session import Session, Workbench
from pruning.engine.tracking import tracker
from pruning.events import EpochDone, PhaseStarted, Warned
from pruning.masks import Masks
from pruning.plan import PlanError
from pruning.plan.lengths import in_epochs, point
from pruning.record import checkpoint, resuming, runs
from pruning.seeds import derive
from pruning.training import loop
from pruning.training.methods.base import Method
from pruning.training.methods.reparametrized import plain_names
from pruning.training.optimizers import make_optimizer

SAVE_EVERY = 5.0  # seconds between two resume files; what lies between is run again, to the same bits

_MODEL, _METHOD = "model:", "method:"


def optimizer_state(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Returns the optimizer's tensors as {"momentum_buffer:conv1.weight": tensor, ...}."""
    out = {}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                out[f"{key}:{name}"] = value
    return out


def masked_state(tensors: Mapping[str, Tensor], masks: Masks | None) -> dict[str, Tensor]:
    """Returns the optimizer's tensors with those of pruned entries as +0."""
    gone = {} if masks is None else masks.everything()
    out = {}
    for name, tensor in tensors.items():
        mask = gone.get(name.partition(":")[2])
        out[name] = tensor if mask is None or tensor.ndim == 0 else tensor.masked_fill(~mask.to(tensor.device), 0.0)
    return out


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor], masks: Masks | None
) -> None:
    """Gives the optimizer what :func:`optimizer_state` returned, pruned entries as +0."""
    parameters = dict(network.named_parameters())
    for name, tensor in masked_state(tensors, masks).items():
        key, _, owner = name.partition(":")
        if owner not in parameters:
            raise PlanError(f"the optimizer's state names '{owner}', which the model lacks")
        parameter = parameters[owner]
        if tensor.ndim == 0 and parameter.ndim != 0:  # Adam's step count, which torch keeps on the CPU
            optimizer.state[parameter][key] = tensor.cpu()
            continue
        if tensor.shape != parameter.shape:
            raise PlanError(f"the optimizer's state of '{owner}' is {list(tensor.shape)}, not {list(parameter.shape)}")
        optimizer.state[parameter][key] = tensor.to(parameter.device, copy=True)


def fit_in(
    session: Session,
    bench: Workbench,
    run: Path,
    network: nn.Module,
    *,
    phase: str,
    cycle: int,
    total_steps: int,
    lr: Callable[[int], float],
    method: Method,
    extra: list[dict[str, Any]],
    momenta: dict[str, Tensor],
    first_step: int = 0,
    keep: tuple[int | float, ...] = (),
    keep_steps: tuple[int, ...] = (),
) -> torch.optim.Optimizer:
    """Returns the optimizer after training the network inside the run folder, from its resume file where there is one.

    `extra` is what the method returned when it was attached. The training starts at `first_step` of `total_steps`; the
    states after the epochs of `keep` and the steps of `keep_steps` are kept.
    """
    train = bench.located
    steps = bench.data.steps_per_epoch(train.batch_size)
    optimizer = make_optimizer(network, train, extra)
    method.bind(network, optimizer)
    load_optimizer_state(optimizer, network, momenta, method.masks)
    first = first_step // steps
    points = {*keep_steps, *(point(epoch, train.epochs, steps) for epoch in keep if isinstance(epoch, float))}
    resume = run / runs.RESUME
    found = resuming.read(run, bench.device, steps, total_steps, lambda text: session.tell(Warned(text)))
    if found is not None:
        tensors, first = found
        first_step = first * steps
        checkpoint.restore(network, _part(tensors, _MODEL), resume)
        method.load_state(_part(tensors, _METHOD))
        rest = {name: t for name, t in tensors.items() if not name.startswith((_MODEL, _METHOD))}
        load_optimizer_state(optimizer, network, rest, method.masks)
    elif 0 in keep or 0 in points:
        checkpoint.save(
            run / runs.epoch_file(0), plain_names({**checkpoint.state(network), **method.hidden()}), {"epoch": 0}
        )
    runs.trim_log(run, first)
    epochs = in_epochs(total_steps, steps)
    session.tell(PhaseStarted(str(run), phase, epochs, total_steps, first))
    track = tracker(session.track, run, first)
    saved = time.perf_counter()

    def keep_state(path: Path, epoch: float) -> None:
        tensors = {**checkpoint.state(network), **method.hidden(), **optimizer_state(optimizer, network)}
        checkpoint.save(path, plain_names(tensors), {"epoch": epoch})

    def on_step(done: int) -> None:
        if done in points:
            keep_state(run / runs.step_file(done), done / steps)

    def on_epoch(record: dict[str, Any]) -> None:
        nonlocal saved
        epoch = record["epoch"]
        runs.append_log(run, record)
        track(record)
        if epoch in keep:
            keep_state(run / runs.epoch_file(epoch), epoch)
        if time.perf_counter() - saved > SAVE_EVERY and record["step"] < total_steps:
            tensors = {f"{_MODEL}{name}": t for name, t in checkpoint.state(network).items()}
            tensors |= {f"{_METHOD}{name}": t for name, t in method.state().items()}
            runs.sync_log(run)
            resuming.write(run, {**tensors, **optimizer_state(optimizer, network)}, epoch)
            saved = time.perf_counter()
        session.tell(EpochDone(record, bench.task.metric_name, bench.task.metric_scale))

    loop.fit(
        network,
        bench.data,
        optimizer,
        lr,
        total_steps=total_steps,
        batch_size=train.batch_size,
        seed=derive(train.seed, "cycle", cycle),
        method=method,
        task=bench.task,
        device=bench.device,
        first_step=first_step,
        precision=train.precision,
        label_smoothing=train.label_smoothing,
        clip_norm=train.clip_norm,
        on_epoch=on_epoch,
        on_step=on_step,
        tell=session.tell,
    )
    track(None)
    return optimizer


def split_state(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns (weights and buffers, optimizer's tensors) of a kept epoch's file."""
    weights = {name: t for name, t in tensors.items() if ":" not in name}
    return weights, {name: t for name, t in tensors.items() if ":" in name}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
