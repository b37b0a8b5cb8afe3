"""What a task says of itself; the loop, evaluation, criteria and reports know no more of it than this.

for each batch (x, y):
    output = task.forward(model, x)
    loss = task.loss(output, y, label_smoothing)      the mean over what counts, to train on
    count += task.count(y)                            how many count: images, pixels that are not void, tokens
    tally += task.tally(output, y)                    sums over batches, in any grouping
metric = task.metric(tally, count)                    the headline number; higher is better
"""

from __future__ import annotations

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
        raise NotImplementedError

    def loss(self, output: Any, y: Any, label_smoothing: float = 0.0) -> Tensor:
        """Returns the loss to train on, a 0-d tensor: the mean over what counts."""
        if label_smoothing:
            raise PlanError(f"label_smoothing is not used by task '{type(self).__name__}'")
        return self.loss_sum(output, y) / self.count(y)

    def tally(self, output: Any, y: Any) -> Tensor:
        """Returns what the metric is computed from, a tensor that sums over batches."""
        raise NotImplementedError

    def metric(self, tally: Tensor, count: float) -> float:
        """Returns the metric of summed tallies over `count` that count."""
        raise NotImplementedError

    def check(self, output: Any, y: Any, classes: int, what: str) -> None:
        """Raises PlanError where `what`, a model, returned something else for a batch than the task can use."""
        try:
            loss = self.loss_sum(output, y)
            self.tally(output, y)
        except PlanError:
            raise
        except Exception as error:
            sizes = trees.each(lambda t: list(t.shape), output)
            labels = trees.each(lambda t: list(t.shape), y)
            reason = " ".join(str(error).split())
            raise PlanError(
                f"{what} returns {sizes} for labels {labels}, which task '{type(self).__name__}' cannot use: {reason}"
            ) from error
        if loss.dim() != 0:
            raise PlanError(f"task '{type(self).__name__}' gives a loss of shape {list(loss.shape)}, not one number")
