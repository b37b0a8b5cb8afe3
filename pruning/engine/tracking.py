"""Scalars for a tracker beside log.jsonl, which is always written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning.plan import PlanError

_SCALARS = ("lr", "train_loss", "train_accuracy", "train_metric", "val_loss", "val_accuracy", "val_metric", "density",
            "images_per_second")  # fmt: skip


def tracker(kind: str | None, run: Path, first_epoch: int) -> Callable[[dict[str, Any] | None], None]:
    """Returns a function that takes each epoch's record, and None at the end; writes to `run`/tensorboard.

    What was written past `first_epoch` before an interruption is marked as replaced.
    """
    if kind is None:
        return lambda record: None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PlanError("--track tensorboard needs the extra: pip install 'pruning[tensorboard]'") from None
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_epoch + 1)

    def track(record: dict[str, Any] | None) -> None:
        if record is None:
            writer.close()
            return
        for key in _SCALARS:
            double = key.endswith("_metric") and record[key.replace("metric", "accuracy")] is not None
            if record[key] is not None and not double:
                writer.add_scalar(key, record[key], record["epoch"])

    return track
