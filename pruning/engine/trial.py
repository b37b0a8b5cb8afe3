"""A new network tried before anything is trained, where its task or its inputs are other than the classification of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning import trees
from pruning.models.check import buffers_kept
from pruning.plan import PlanError
from pruning.training.tasks.base import Task

Trial = Callable[[nn.Module, str], None]


def plain(task: str, shape: Any) -> bool:
    """Returns whether blank images try a network as well as the data do: it classifies examples of one tensor."""
    return task == "classification" and not isinstance(shape, dict) and all(isinstance(n, int) for n in shape)


def on_examples(task: Task, x: Any, y: Any, classes: int) -> Trial:
    """Returns the trial on two examples in both modes, output and loss included; buffers are left as they were."""

    def twice(t: Tensor) -> Tensor:
        return torch.cat([t[:1], t[:1]]).cpu()

    def trial(network: nn.Module, what: str) -> None:
        inputs, labels = trees.each(twice, x), trees.each(twice, y)
        task.check(run(task, network.eval(), inputs, what), labels, classes, what)
        with buffers_kept(network):
            output = run(task, network.train(), inputs, f"{what}, in training mode,")
        task.check(output, labels, classes, f"{what}, in training mode,")

    return trial


def of_record(record: Mapping[str, Any]) -> Trial | None:
    """Returns the trial of a network that was trained before, on blank inputs; None where those are images to classify.

    `record` has the keys input, input_types and task of summary.json.
    """
    if plain(record.get("task", "classification"), record["input"]):
        return None
    x = trees.blank(record["input"], record.get("input_types"))

    def trial(network: nn.Module, what: str) -> None:
        run(Task(), network.eval(), x, what)

    return trial


def run(task: Task, network: nn.Module, x: Any, what: str) -> Any:
    """Returns the network's output; raises PlanError where it cannot take the inputs."""
    try:
        with torch.no_grad():
            return task.forward(network, x)
    except PlanError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PlanError(
            f"{what} does not run on inputs of {trees.sizes(x)}: {type(error).__name__}: {reason}"
        ) from error
