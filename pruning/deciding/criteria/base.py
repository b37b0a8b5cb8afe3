"""What a criterion is asked with, and how the model runs for it without being touched.

The model runs as a function of stand-ins for its parameters and buffers, so its own weights, gradients and BatchNorm
statistics are never written to. Module modes and random states are put back, also where scoring fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.plan import PlanError, ScoringMode

MICRO_BATCH = 128  # examples that go through the model at once unless asked otherwise


@dataclass(frozen=True)
class Sample:
    """A sample (inputs [n, ...] and labels int64 [n, ...], where the criterion needs them), and how to score it."""

    generator: torch.Generator
    inputs: Tensor | None = None
    labels: Tensor | None = None
    mode: ScoringMode = "eval"
    micro_batch: int | None = None  # examples at once; in eval mode the scores do not depend on it

    def parts(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (inputs, labels) in micro-batches on the device of `like`, floating inputs in its dtype.

        In train mode the sample is one.
        """
        assert self.inputs is not None
        assert self.labels is not None
        size = len(self.labels) if self.mode == "train" else self.micro_batch or MICRO_BATCH
        for inputs, labels in zip(self.inputs.split(size), self.labels.split(size), strict=True):
            inputs = inputs.to(like) if inputs.is_floating_point() else inputs.to(like.device)
            labels = labels.to(like.device)
            # what was made in inference mode cannot be saved for backward, a copy of it can
            yield (
                inputs.clone() if inputs.is_inference() else inputs,
                labels.clone() if labels.is_inference() else labels,
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
def as_it_was(model: nn.Module, sample: Sample) -> Iterator[None]:
    """Runs its body with the model in `sample.mode`; modes of all modules and global random states are put back after it.

    In train mode the random states start from `sample.generator`, so that dropout depends on nothing else. Attention runs
    by its plain formula, the only one with second derivatives.
    """
    modes = [(module, module.training) for module in model.modules()]
    cuda = torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else []), sdpa_kernel(SDPBackend.MATH):
        try:
            if sample.mode == "train":
                seed = int(torch.randint(2**62, (), generator=sample.generator, device=sample.generator.device))
                torch.default_generator.manual_seed(seed)
                if cuda:
                    torch.cuda.manual_seed_all(seed)
            model.train(sample.mode == "train")
            yield
        finally:
            for module, training in modes:
                module.training = training


def run(model: nn.Module, state: Mapping[str, Tensor], inputs: Tensor, criterion: str) -> Tensor:
    """Returns the model's output on `inputs` with `state` in place of its own; raises PlanError where it cannot run."""
    try:
        output = torch.func.functional_call(model, dict(state), (inputs,))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        what = f"inputs of shape {list(inputs.shape)} in {str(inputs.dtype).removeprefix('torch.')}"
        reason = str(error).strip().split("\n")[0]
        raise PlanError(f"criterion '{criterion}' cannot run the model on {what}: {reason}") from error
    if not isinstance(output, Tensor):
        raise PlanError(f"criterion '{criterion}' needs a model that returns a tensor, not {type(output).__name__}")
    return output
