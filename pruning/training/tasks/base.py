"""What a task says of itself; the loop, evaluation, criteria and reports know no more of it than this.

for each batch (x, y):
    output = task.forward(model, x)
    loss = task.loss(output, y, label_smoothing)      the mean over what counts, to train on
    count += task.count(y)                            how many count: images, pixels that are not void, tokens
    tallies += task.tally(output, y)                  sums over batches, in any grouping
metric = task.metric(tallies, count)                  the headline number; higher is better
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from pruning import trees
from pruning.errors import PlanError


class Task:
    """What is learnt. A subclass says its loss and its metric; x, y and outputs are tensors, or tuples and dicts of such."""

    metric_name: ClassVar[str] = "metric"  # as tables head it
    metric_scale: ClassVar[float] = 100.0  # times the metric is what papers print; 100: percent
    evaluation_batch: ClassVar[int] = 100  # examples that are evaluated at once
    class_balanced: ClassVar[bool] = False  # whether a sample for criteria takes as many examples of each class

    def forward(self, model: Callable[..., Any], x: Any) -> Any:
        """Returns the model's output; a tuple x is its arguments, a dict x its keyword arguments."""
        return trees.apply(model, x)

    def count(self, y: Any) -> int | Tensor:
        """Returns how many parts of the labels count in the loss; by default the examples."""
        return trees.examples(y)

    def loss_sum(self, output: Any, y: Any) -> Tensor:
        """Returns the loss summed over what counts, a 0-d tensor, without label smoothing."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss_sum")

    def loss(self, output: Any, y: Any, label_smoothing: float = 0.0) -> Tensor:
        """Returns the loss to train on, a 0-d tensor: the mean over what counts."""
        if label_smoothing:
            raise PlanError(f"label_smoothing is not used by task '{type(self).__name__}'")
        count = self.count(y)
        return self.loss_sum(output, y) / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))

    def tally(self, output: Any, y: Any) -> Any:
        """Returns what the metric is computed from: a tensor, or a tuple or dict of such, that sums over batches."""
        raise NotImplementedError(f"{type(self).__name__} defines no tally")

    def metric(self, tally: Any, count: float) -> float:
        """Returns the metric of summed tallies over `count` that count."""
        raise NotImplementedError(f"{type(self).__name__} defines no metric")

    def check(self, output: Any, y: Any, classes: int, what: str) -> None:
        """Raises PlanError where `what`, a model, returned something else for a batch than the task can use."""
        try:
            loss = self.loss_sum(output, y)
            tally = self.tally(output, y)
            with contextlib.suppress(ArithmeticError):  # of one example, which may have nothing that counts
                float(self.metric(tally, float(self.count(y))))
        except PlanError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            given = f"{what} returns {trees.sizes(output)} for labels {trees.sizes(y)}"
            raise PlanError(f"{given}, which task '{type(self).__name__}' cannot use: {reason}") from error
        if loss.dim() != 0:
            raise PlanError(f"task '{type(self).__name__}' gives a loss of shape {list(loss.shape)}, not one number")
        if not all(isinstance(part, Tensor) for part in trees.leaves(tally)):
            raise PlanError(f"task '{type(self).__name__}' must tally in tensors, not {type(tally).__name__}")
