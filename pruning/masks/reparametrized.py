"""Weights that a forward pass transforms before it multiplies by them, so that pruned zeros do not stay zeros.

Weight standardization is the usual case: (w - mean) / std of a pruned weight has no zeros. It is found by its effect: a
random half of its entries is made 0, and what the layer multiplies by is looked at. The model is left as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.layers import CONVOLUTIONS, TRANSPOSED, WEIGHTED, is_transposed_linear
from pruning.undisturbed import undisturbed

_NAMES = [
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "matmul", "mm", "bmm", "addmm",
    "baddbmm", "einsum", "_grouped_mm",
]  # fmt: skip
_PRODUCTS = {getattr(torch, name) for name in _NAMES if hasattr(torch, name)} | {
    nn.functional.linear,
    nn.functional.bilinear,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    Tensor.mm,
    Tensor.bmm,
}


def reparametrized(
    model: nn.Module, weights: Mapping[str, Tensor], call: Callable[[nn.Module], Any] | None = None
) -> list[str]:
    """Returns the names of those weights whose zeros are no zeros where the network multiplies by them.

    Convolutions and linear layers with a forward of their own are tried alone, on zeros. `call`, which runs the model on an
    example, shows what else transforms a weight: the module that owns it, or one around it. Without an example a module
    that is neither convolution nor linear layer is not tried.
    """
    owners = dict(model.named_modules())
    layers = {name: owners[name.rpartition(".")[0]] for name in weights}
    examples = {name: x for name, module in layers.items() if (x := _example(module, weights[name])) is not None}
    found: set[str] = set()
    if call is None and not examples:
        return []
    with _trying(model, weights if call else {name: weights[name] for name in examples}) as probes:
        for name, example in examples.items():
            found |= _effect(probes, [name], partial(layers[name], example))
        if call is not None:
            found |= _effect(probes, list(weights), lambda: call(model))
    return [name for name in weights if name in found]


def _example(module: nn.Module, weight: Tensor) -> Tensor | None:
    """Returns zeros that a layer with a forward of its own takes; None for torch's own layers and for others."""
    if is_transposed_linear(module) or not isinstance(module, WEIGHTED) or type(module).__module__.startswith("torch."):
        return None
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        sides = [d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        return torch.zeros(1, module.in_channels, *sides, dtype=weight.dtype, device=weight.device)
    return torch.zeros(1, module.in_features, dtype=weight.dtype, device=weight.device)


@contextlib.contextmanager
def _trying(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[dict[str, tuple[nn.Parameter, Tensor]]]:
    """Yields {name: (parameter, zeros)} with half of each weight's entries 0; everything is as it was afterwards."""
    parameters = dict(model.named_parameters())
    drawn = torch.Generator().manual_seed(0)  # one pattern for each weight, or one would be taken for another
    before = {name: parameters[name].detach() for name in weights}
    probes = {}
    with undisturbed(model), torch.no_grad():
        try:
            for name, value in before.items():
                zeros = torch.rand(value.shape, generator=drawn).to(value.device) < 0.5
                parameters[name].data = torch.where(zeros, 0, value + (value == 0))
                probes[name] = (parameters[name], zeros)
            yield probes
        finally:
            for name, value in before.items():
                parameters[name].data = value


def _effect(probes: Mapping[str, tuple[nn.Parameter, Tensor]], names: list[str], run: Callable[[], Any]) -> set[str]:
    """Returns the names whose zeros were gone in a product while `run` ran; nothing where it fails."""
    watch = _Watch({name: probes[name] for name in names})
    with watch, contextlib.suppress(Exception):
        run()
    return watch.found


class _Watch(TorchFunctionMode):
    """Looks at what is multiplied: a copy of a watched weight that has entries where the weight has zeros."""

    def __init__(self, probes: Mapping[str, tuple[nn.Parameter, Tensor]]) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.memory = {parameter.untyped_storage().data_ptr() for parameter, _ in probes.values()}
        self.by_shape: dict[torch.Size, list[tuple[str, nn.Parameter, Tensor]]] = {}
        for name, (parameter, zeros) in probes.items():
            self.by_shape.setdefault(parameter.shape, []).append((name, parameter, zeros))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            for value in [*args, *(kwargs or {}).values()]:
                for tensor in value if isinstance(value, (tuple, list)) else (value,):
                    if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.memory:
                        self._look(tensor.detach())
        return func(*args, **(kwargs or {}))

    def _look(self, operand: Tensor) -> None:
        for view in (operand, operand.mT) if operand.dim() > 1 else ():
            for name, parameter, zeros in self.by_shape.get(view.shape, ()):
                if name not in self.found and _follows(view, parameter.detach(), zeros):
                    self.found.add(name)


def _follows(operand: Tensor, weight: Tensor, zeros: Tensor) -> bool:
    """Returns whether the operand is made of the weight and has lost its zeros: within a row it rises and falls with it.

    Other operands have a weight's shape too, as activations; those do not correlate with it.
    """
    if not bool((operand != 0)[zeros].any()):
        return False
    a, b = operand.double().flatten(1), weight.double().flatten(1)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norms = a.norm(dim=1) * b.norm(dim=1)
    live = norms > 0
    alike = (a * b).sum(1)[live] / norms[live]
    return bool(len(alike)) and float(alike.abs().mean()) > 0.7
