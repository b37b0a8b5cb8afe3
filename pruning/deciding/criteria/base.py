"""The sample that a criterion scores, and how the model runs for it without being touched.

The model runs as a function of stand-ins for its parameters and buffers, so its own weights, gradients and BatchNorm
statistics are never written to. Module modes and random states are put back, also where scoring fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning import trees
from pruning.plan import PlanError, ScoringMode

MICRO_BATCH = 128  # examples that go through the model at once, at most, unless asked otherwise


class Objective(Protocol):
    """What is learnt, as far as a criterion needs it; every :class:`pruning.training.tasks.base.Task` is one."""

    evaluation_batch: ClassVar[int]  # examples that go through the model at once

    def forward(self, model: Callable[..., Any], x: Any) -> Any: ...
    def loss_sum(self, output: Any, y: Any) -> Tensor: ...
    def count(self, y: Any) -> int | Tensor: ...


class CrossEntropy:
    """Cross-entropy of class scores [n, classes, ...] against labels int64 [n, ...]."""

    evaluation_batch: ClassVar[int] = MICRO_BATCH

    def forward(self, model: Callable[..., Any], x: Any) -> Any:
        """Returns the model's output, which must be one tensor."""
        output = trees.apply(model, x)
        if not isinstance(output, Tensor):
            raise PlanError(f"it needs a model that returns a tensor, not {type(output).__name__}")
        return output

    def loss_sum(self, output: Tensor, y: Tensor) -> Tensor:
        """Returns the cross-entropies summed."""
        return F.cross_entropy(output, y, reduction="sum")

    def count(self, y: Tensor) -> int:
        """Returns the number of labels."""
        return y.numel()


@dataclass(frozen=True)
class Sample:
    """A sample (inputs [n, ...] and labels [n, ...], where the criterion needs them), and how to score it.

    Inputs and labels are tensors, or tuples and dicts of such, as the `task` takes them. In train mode the loss that is scored
    is the mean over the sample, with each micro-batch normalized by its own BatchNorm statistics; without a `micro_batch` the
    whole sample is one.
    """

    generator: torch.Generator
    inputs: Any = None
    labels: Any = None
    mode: ScoringMode = "eval"
    micro_batch: int | None = None  # examples at once, at most; in eval mode the scores do not depend on it
    task: Objective = field(default_factory=CrossEntropy)

    def slices(self) -> list[slice]:
        """Returns which examples each micro-batch takes.

        In train mode there are p = ceil(n / micro_batch) of them, and the i-th takes examples i, i + p, i + 2p ...: a sample
        that is sorted by class is spread evenly over them, and their sizes differ by one at most.
        """
        number = trees.examples(self.labels)
        if self.mode == "train":
            count = -(-number // (self.micro_batch or number))
            return [slice(i, None, count) for i in range(count)]
        size = self.micro_batch or min(MICRO_BATCH, self.task.evaluation_batch)
        return [slice(start, start + size) for start in range(0, number, size)]

    def parts(self, like: Tensor) -> Iterator[tuple[Any, Any]]:
        """Yields (inputs, labels) in micro-batches on the device of `like`, floating inputs in its dtype."""

        def placed(x: Tensor) -> Tensor:
            x = x.to(like) if x.is_floating_point() else x.to(like.device)
            return x.clone() if x.is_inference() else x  # what was made in inference mode cannot be saved for backward

        def labelled(y: Tensor) -> Tensor:
            y = y.to(like.device)
            return y.clone() if y.is_inference() else y

        for now in self.slices():
            yield (
                trees.each(lambda t, now=now: placed(t[now]), self.inputs),  # type: ignore[misc]
                trees.each(lambda t, now=now: labelled(t[now]), self.labels),  # type: ignore[misc]
            )


def working_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    """Returns the dtype to score in: the weights', but no less than float32."""
    dtype = torch.float32
    for weight in weights.values():
        dtype = torch.promote_types(dtype, weight.dtype)
    return dtype


def stand_ins(model: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns detached copies of all parameters and buffers, floating ones as `dtype`, `weights` in their places."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers()), **weights}
    return {
        name: tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in state.items()
    }


@contextmanager
def as_it_was(model: nn.Module, sample: Sample) -> Iterator[Callable[[], None]]:
    """Runs its body with the model in `sample.mode`; modes of all modules and global random states are put back after it.

    In train mode the random states start from `sample.generator`, so that dropout depends on nothing else; what is yielded
    sets them back to that start, for a second pass with the same dropout. Attention runs by its plain formula, the only one
    with second derivatives.
    """
    modes = [(module, module.training) for module in model.modules()]
    cuda = torch.cuda.is_initialized()
    seed: int | None = None

    def again() -> None:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if cuda:
                torch.cuda.manual_seed_all(seed)

    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else []), sdpa_kernel(SDPBackend.MATH):
        try:
            if sample.mode == "train":
                seed = int(torch.randint(2**62, (), generator=sample.generator, device=sample.generator.device))
                again()
            model.train(sample.mode == "train")
            yield again
        finally:
            for module, training in modes:
                module.training = training


def run(model: nn.Module, state: Mapping[str, Tensor], inputs: Any, criterion: str, task: Objective) -> Any:
    """Returns the model's output on `inputs` with `state` in place of its own; raises PlanError where it cannot run."""

    def called(*args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(model, dict(state), args, kwargs)

    try:
        return task.forward(called, inputs)
    except PlanError as error:
        raise PlanError(f"criterion '{criterion}': {error}") from None
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        sizes = [f"shape {list(x.shape)} in {str(x.dtype).removeprefix('torch.')}" for x in trees.tensors(inputs)]
        reason = str(error).strip().split("\n")[0]
        raise PlanError(
            f"criterion '{criterion}' cannot run the model on inputs of {', '.join(sizes)}: {reason}"
        ) from error
