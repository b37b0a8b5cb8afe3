"""The resume file of an unfinished run: everything to go on bit for bit, read as input that may be damaged."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pruning.errors import PlanError
from pruning.record import checkpoint, runs, whole
from pruning.record.schemas import Resume
from pruning.record.text import checked


def content(tensors: Mapping[str, Tensor]) -> str:
    """Returns a digest of tensors by name, type, shape and value: what shows that one is missing, another or damaged."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(run: Path, tensors: Mapping[str, Tensor], epoch: int) -> None:
    """Writes the state after an epoch, in place of an earlier one; the log's lines must be on the disk before."""
    checkpoint.save(run / runs.RESUME, tensors, {"epoch": epoch, "content": content(tensors)})


def read(
    run: Path, device: torch.device, steps: int, total_steps: int, warn: Callable[[str], None]
) -> tuple[dict[str, Tensor], int] | None:
    """Returns (tensors, epochs done) of the run's resume file, or None where the run starts from its beginning.

    A file that cannot be right, or a log that does not lead up to it, is set aside and told of: the run starts over.
    """
    path = run / runs.RESUME
    if not path.exists() and not (run / runs.LOG).exists():
        return None
    try:
        log = {record["epoch"]: record.get("step") for record in runs.log(run)}
    except PlanError as error:
        _aside(run / runs.LOG, run / "log.damaged")
        warn(f"{error}; it is set aside as log.damaged")
        log = {}
    if not path.exists():
        return None
    try:
        tensors, notes = checkpoint.load(path, device)
        epoch = checked(Resume, notes, path).epoch
        if epoch * steps >= total_steps:
            raise PlanError(f"{path} is damaged: it is of epoch {epoch}, but the phase ends before that")
        if notes["content"] != content(tensors):
            raise PlanError(f"{path} is damaged: its tensors are not those that were written")
        first = min(log, default=1)  # a retraining from a step of the training has no lines before it
        if epoch not in log or any(log.get(done) != done * steps for done in range(first, epoch + 1)):
            raise PlanError(f"{path} is of epoch {epoch}, which the log does not lead up to")
    except PlanError as error:
        _aside(path, run / whole.DAMAGED)
        warn(f"{error}; it is set aside as {whole.DAMAGED}, and the phase starts from its beginning")
        return None
    return tensors, epoch


def _aside(path: Path, to: Path) -> None:
    with contextlib.suppress(OSError):
        os.replace(path, to)
