"""The closed loop: training and evaluation for any task. A method acts through its hooks and never by editing this file.

Order and augmentation of the data and the network's own random numbers (dropout) follow from the seed and the epoch alone, so
that training continued from the end of an epoch is bit for bit training never stopped.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pruning import trees
from pruning.data import Data
from pruning.events import Progress, Tell
from pruning.plan import PlanError
from pruning.seeds import derive
from pruning.training.enforcing import mask_gradients
from pruning.training.methods.base import Method
from pruning.training.tasks.base import Task
from pruning.value_range import finite

DIVERGED = "training diverged: the loss is {loss} in epoch {epoch}; lower the learning rate"


def fit(
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    lr: Callable[[int], float],
    *,
    total_steps: int,
    batch_size: int,
    seed: int,
    method: Method,
    task: Task,
    device: torch.device,
    first_step: int = 0,
    precision: str = "float32",
    label_smoothing: float = 0.0,
    clip_norm: float | None = None,
    on_epoch: Callable[[dict[str, Any]], None],
    on_step: Callable[[int], None] = lambda done: None,
    tell: Tell,
) -> None:
    """Trains the model in place from step `first_step` up to `total_steps`; `on_epoch` receives one record after each
    epoch, the last of which may be a part of one, `on_step` the number of steps done after each step.

    `lr` maps the 0-based step to the learning rate; a parameter group with `lr_factor` gets that multiple. Raises PlanError
    where the loss is no longer finite.
    """
    steps = data.steps_per_epoch(batch_size)
    weights = list(model.parameters())
    told = 0.0
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        for epoch in range(first_step // steps, math.ceil(total_steps / steps)):
            started = time.perf_counter()
            torch.manual_seed(derive(seed, "layers", epoch))
            model.train()
            total = torch.zeros((), device=device)
            tally: Any = None
            counted: Any = 0  # of what the loss is a mean over
            images, rate, step = 0, 0.0, epoch * steps
            for x, y in data.train_batches(batch_size, epoch, seed):
                if step < first_step:
                    step += 1
                    continue
                if step >= total_steps:  # the last epoch may be a part of one
                    break
                rate = lr(step)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group.get("lr_factor", 1.0)
                with autocast(device, precision):
                    output = task.forward(model, x)
                    loss = task.loss(output, y, label_smoothing)
                count = task.count(y)
                total += loss.detach() * count
                if (extra := method.penalty()) is not None:
                    loss = loss + extra
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                method.after_backward(step)
                if clip_norm is not None:
                    if method.masks is not None:
                        mask_gradients(model, method.masks)
                    nn.utils.clip_grad_norm_(weights, clip_norm)
                optimizer.step()
                try:
                    method.after_step(step)
                except PlanError:
                    if not bool(torch.isfinite(loss)) or not all(map(finite, weights)):
                        raise PlanError(DIVERGED.format(loss=loss.item(), epoch=epoch + 1)) from None
                    raise
                with torch.no_grad():
                    tally = trees.add(tally, task.tally(output, y))
                counted = counted + count
                images += trees.examples(y)
                step += 1
                on_step(step)
                now = time.perf_counter()
                if now - told > 0.1:
                    told = now
                    tell(Progress(step, total_steps))
            train_loss = total.item() / max(float(counted), 1.0)  # the one wait for the device in an epoch
            trained = time.perf_counter() - started
            if not torch.isfinite(torch.tensor(train_loss)):
                raise PlanError(DIVERGED.format(loss=train_loss, epoch=epoch + 1))
            record: dict[str, Any] = {"epoch": epoch + 1, "step": step, "lr": rate, "train_loss": train_loss}
            record |= scored(task, "train", metric_of(task, tally, float(counted))) | scored(task, "val", None)
            record |= {"val_loss": None}
            if data.sizes["validation"]:
                batches = data.batches("validation", task.evaluation_batch)
                metric, loss_value = evaluate(model, batches, task, device, precision)
                record |= scored(task, "val", metric) | {"val_loss": loss_value}
            record["density"] = method.density()
            record |= {
                "train_seconds": trained,
                "seconds": time.perf_counter() - started,
                "images_per_second": images / trained,
            }
            on_epoch(record)
    tell(Progress(total_steps, total_steps))


def scored(task: Task, part: str, metric: float | None) -> dict[str, Any]:
    """Returns {"val_metric": metric, "val_accuracy": the same where it is one} for the part "val"; None for what is no number."""
    if metric is not None and not math.isfinite(metric):
        metric = None
    return {f"{part}_metric": metric, f"{part}_accuracy": metric if task.metric_name == "accuracy" else None}


@torch.no_grad()
def recalibrate(
    model: nn.Module, data: Data, task: Task, *, batch_size: int, seed: int, device: torch.device, precision: str
) -> None:
    """Sends the training images through the model once in training mode, so that its running statistics are those of the
    weights that it has now; weights stay as they are, and the model's mode is put back."""
    mode = model.training
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "recalibrate"))
        for x, _ in data.train_batches(batch_size, 0, derive(seed, "recalibrate")):
            with autocast(device, precision):
                task.forward(model, x)
    model.train(mode)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    task: Task,
    device: torch.device,
    precision: str = "float32",
) -> tuple[float, float]:
    """Returns (metric, mean loss) in evaluation mode; the model's mode is put back."""
    mode = model.training
    model.eval()
    tally: Any = None
    counted: Any = 0
    total = torch.zeros((), dtype=torch.float64, device=device)
    for x, y in batches:
        with autocast(device, precision):
            output = task.forward(model, x)
        tally = trees.add(tally, task.tally(output, y))
        total += task.loss_sum(trees.each(_float, output), y).double()
        counted = counted + task.count(y)
    model.train(mode)
    count = float(counted)
    return metric_of(task, tally, count), total.item() / max(count, 1.0)


def metric_of(task: Task, tally: Any, count: float) -> float:
    """Returns the metric of summed tallies, nan where nothing was there to count."""
    try:
        return float(task.metric(tally, count))
    except ZeroDivisionError:
        return math.nan


def _float(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Returns the context in which a forward pass runs: bfloat16 autocast, or nothing for float32."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
