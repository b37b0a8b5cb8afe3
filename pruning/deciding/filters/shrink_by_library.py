"""Shrinking of networks that torch.fx does not trace, or whose residual widths should shrink too, by torch-pruning.

The library (Fang et al. 2023, the extra `structured`) finds out which layers must lose the same channels by running the
network. A channel goes only where it is dead in every layer that gives it and its normalizations give 0 for it; nothing
is folded. Channels that the library groups wrongly, as behind zero-padded shortcuts, show in the difference.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

import torch
from torch import Tensor, nn

from pruning import trees
from pruning.deciding.filters.units import SOURCES
from pruning.layers import CHANNEL_NORMS
from pruning.masks import Masks
from pruning.plan import PlanError


def shrink_with_library(model: nn.Module, masks: Masks, example_input: Tensor) -> tuple[nn.Module, float]:
    """Returns (the masked model in eval mode without its dead channels, the largest difference of outputs on the example).

    Raises PlanError where torch-pruning is not installed or cannot follow the model.
    """
    try:
        library = importlib.import_module("torch_pruning")
    except ImportError:
        raise PlanError("torch-pruning is not installed: pip install 'pruning[structured]'") from None
    masked = copy.deepcopy(model).eval()
    masks.apply(masked)
    small = copy.deepcopy(masked)
    try:
        with torch.enable_grad():
            graph = library.DependencyGraph().build_dependency(small, example_inputs=example_input)
        for layer in [m for m in small.modules() if isinstance(m, SOURCES) and getattr(m, "groups", 1) == 1]:
            _remove(graph, library, layer)
    except Exception as error:
        raise PlanError(f"torch-pruning cannot follow the model: {' '.join(str(error).split())}") from error
    with torch.no_grad():
        expected, given = masked(example_input), small(example_input)
    was, now = trees.sizes(expected), trees.sizes(given)
    if now != was:
        raise PlanError(f"torch-pruning changed the model's output from {was} to {now}")
    return small, trees.distance(given, expected)


def _remove(graph: Any, library: Any, layer: nn.Module) -> None:
    """Removes the layer's dead channels, and whatever else is bound to them."""
    weight: Any = layer.weight
    dead = (~weight.detach().flatten(1).any(1)).nonzero().flatten().tolist()
    prune = library.prune_linear_out_channels if isinstance(layer, nn.Linear) else library.prune_conv_out_channels
    going = [i for i in dead if _idle(graph, graph.get_pruning_group(layer, prune, idxs=[i]))]
    if len(going) == len(weight):
        going = going[1:]
    if going:
        graph.get_pruning_group(layer, prune, idxs=going).prune()


def _idle(graph: Any, group: Any) -> bool:
    """Returns whether a channel is 0 wherever it is given, and is read by a layer at all."""
    read = False
    for dependency, places in group:
        module = dependency.target.module
        if not graph.is_out_channel_pruning_fn(dependency.handler):
            read = True
        elif isinstance(module, (*SOURCES, *CHANNEL_NORMS)):
            tensors = [t for t in (module.weight, module.bias) if t is not None]
            if not tensors or any(bool(t[list(places)].any()) for t in tensors):
                return False
        elif not type(module).__module__.startswith("torch_pruning"):
            return False
    return read
