"""Smaller dense networks: filters that are gone are removed for real, with what reads them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from pruning import trees
from pruning.deciding.filters.units import Units, find_units, trace
from pruning.layers import CHANNEL_NORMS
from pruning.masks import Masks
from pruning.plan import PlanError


@torch.no_grad()
def shrink(model: nn.Module, masks: Masks, example_input: Tensor) -> tuple[nn.Module, float]:
    """Returns (the masked model in eval mode without its dead filters, the largest difference of outputs on the example).

    Dead is an internal filter with no weight left. What it still gives, by its bias or its normalization's shift, is
    added to the biases of the layers that read it: exact but at the borders of a convolution with padding, where the
    difference shows. Without such a shift the two networks differ by the rounding of sums only. A layer keeps one filter
    at least; widths that a residual way shares are not changed.
    """
    masked = copy.deepcopy(model).eval()
    masks.apply(masked)
    small = copy.deepcopy(masked)
    traced = trace(small)
    try:
        expected = masked(example_input)
        ShapeProp(traced).propagate(example_input)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PlanError(f"the model does not run on an example of {list(example_input.shape)}: {reason}") from error
    nodes = {str(node.target): node for node in traced.graph.nodes if node.op == "call_module"}
    for units in find_units(small, traced=traced).values():
        weight = small.get_submodule(units.layer).weight
        alive = weight.flatten(1).ne(0).any(1)  # type: ignore[operator]
        if not bool(alive.any()):
            alive[0] = True
        if units.internal and units.readers and not bool(alive.all()):
            _fold(traced, nodes, units, alive)
            _slice(small, units, alive)
    return small, trees.distance(small(example_input), expected)


def _fold(traced: fx.GraphModule, nodes: Mapping[str, fx.Node], units: Units, alive: Tensor) -> None:
    """Adds what dead filters still give to the biases of the layers that read them."""
    source = nodes[units.layer]
    layer: Any = traced.get_submodule(units.layer)
    shape = source.meta["tensor_meta"].shape
    axis = -1 if isinstance(layer, nn.Linear) else 1
    bias = torch.zeros(units.number) if layer.bias is None else layer.bias
    view = [1] * len(shape)
    view[axis] = -1
    interpreter = fx.Interpreter(traced)
    interpreter.env = {source: bias.to(layer.weight).view(view).expand(shape).contiguous()}
    for node in units.path:
        interpreter.env[node] = interpreter.run_node(node)
    for name in units.readers:
        reader: Any = traced.get_submodule(name)
        given = interpreter.env[nodes[name].args[0]]  # type: ignore[index]
        dead = (~alive).repeat_interleave(reader.weight.shape[1] // units.number)
        if isinstance(reader, nn.Linear):
            value = given.flatten(0, -2)[0]
            shift = reader.weight[:, dead] @ value[dead]
        else:
            middle = tuple(size // 2 for size in given.shape[2:])
            value = given[(0, slice(None), *middle)]
            shift = reader.weight.flatten(2).sum(2)[:, dead] @ value[dead]
        if bool(shift.any()):
            reader.bias = nn.Parameter(shift if reader.bias is None else reader.bias + shift)


def _slice(model: nn.Module, units: Units, alive: Tensor) -> None:
    """Removes the rows of dead filters, their normalizations' entries and the channels that read them."""
    state = {}
    for name in [units.layer, *units.norms]:
        for key, value in [*model.get_submodule(name).named_parameters(), *model.get_submodule(name).named_buffers()]:
            if value.dim() > 0:
                state[f"{name}.{key}"] = value[alive]
    for name in units.readers:
        weight: Any = model.get_submodule(name).weight
        state[f"{name}.weight"] = weight[:, alive.repeat_interleave(weight.shape[1] // units.number)]
    _reshape(model, state)


def refit(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads the state of a network that :func:`shrink` made into the full-sized model that it was made from."""
    own = model.state_dict()
    if missing := sorted(own.keys() - state.keys()):
        raise PlanError(f"the shrunk network's state lacks '{missing[0]}'")
    for name in sorted(state.keys() - own.keys()):
        owner, _, key = name.rpartition(".")
        if key != "bias" or f"{owner}.weight" not in own:
            raise PlanError(f"the model lacks '{name}'")
        model.get_submodule(owner).bias = nn.Parameter(state[name].clone())
    for name, value in state.items():
        full = own.get(name, value).shape
        if value.dim() != len(full) or any(size > most for size, most in zip(value.shape, full, strict=True)):
            raise PlanError(f"'{name}' is {list(value.shape)}, which does not come from {list(full)}")
    _reshape(model, {name: value for name, value in state.items() if name in own and value.shape != own[name].shape})
    model.load_state_dict(dict(state))


def _reshape(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts tensors of other sizes in their places, and tells the modules."""
    for name, value in state.items():
        owner, _, key = name.rpartition(".")
        module: Any = model.get_submodule(owner)
        if key in module._buffers:
            module._buffers[key] = value.clone()
        else:
            setattr(module, key, nn.Parameter(value.clone(), module._parameters[key].requires_grad))
        if isinstance(module, CHANNEL_NORMS):
            module.num_features = len(value)
        elif key == "weight" and isinstance(module, nn.Linear):
            module.out_features, module.in_features = value.shape
        elif key == "weight":
            module.out_channels, module.in_channels = value.shape[0], value.shape[1] * module.groups
