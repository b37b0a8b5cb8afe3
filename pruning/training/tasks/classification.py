"""Classification: cross-entropy and accuracy of class scores [N, classes] against labels int64 [N]."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from pruning.errors import PlanError
from pruning.training.tasks.base import Task


class Classification(Task):
    """One class for each example."""

    metric_name: ClassVar[str] = "accuracy"
    evaluation_batch: ClassVar[int] = (
        500  # fixed: float32 sums differ with the batch, and results are compared bit for bit
    )
    class_balanced: ClassVar[bool] = True

    def loss_sum(self, output: Tensor, y: Tensor) -> Tensor:
        """Returns the cross-entropies summed."""
        return F.cross_entropy(output, y, reduction="sum")

    def loss(self, output: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Returns the mean cross-entropy."""
        return F.cross_entropy(output, y, label_smoothing=label_smoothing)

    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        """Returns how many examples are classified rightly."""
        return (output.argmax(1) == y).sum()

    def metric(self, tally: Tensor, count: float) -> float:
        """Returns their share."""
        return tally.item() / count

    def check(self, output: Any, y: Any, classes: int, what: str) -> None:
        """Raises PlanError unless the output is [N, classes]."""
        if not isinstance(output, Tensor):
            raise PlanError(f"{what} returns a {type(output).__name__}, not a tensor of class scores")
        if output.shape != (len(y), classes):
            raise PlanError(f"{what} returns {list(output.shape)} for {len(y)} images of {classes} classes")
