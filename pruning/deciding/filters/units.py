"""What becomes of a layer's units: the normalization behind them and the layers that read them.

A unit is a filter of a convolution or a neuron of a linear layer: one row of the weight. The network is traced by
torch.fx; a unit is followed through what acts on every channel by itself (activations, normalization, pooling, dropout,
flattening). Where all paths end in convolutions and linear layers, the units are *internal*: they can be removed
without changing anything else. Those that are added, concatenated or returned, as residual ways, are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from pruning.layers import CHANNEL_NORMS, CONVOLUTIONS
from pruning.masks import prunable
from pruning.plan import PlanError, suggest

SOURCES = (*CONVOLUTIONS, nn.Linear)
WHICH = ("internal", "all")
_ELEMENTWISE: tuple[Any, ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardswish,
    nn.Hardtanh, nn.Hardsigmoid, nn.Identity, nn.modules.dropout._DropoutNd,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardtanh, F.softplus,
    F.dropout, F.dropout2d, torch.relu, torch.tanh, torch.sigmoid, "relu", "relu_", "tanh", "sigmoid", "contiguous",
)  # fmt: skip
_POOLING: tuple[Any, ...] = (
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.Flatten,
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool2d,
    torch.flatten, "flatten", torch.mean, "mean",
)  # fmt: skip


@dataclasses.dataclass
class Units:
    """The units of one layer: `norm` is the normalization of theirs alone, `readers` the layers that read them.

    `path` holds the traced nodes between, in order, and `norms` the normalizations among them. `internal` is False where
    something else than layers gets at the units; `output` is True where that is the network's result.
    """

    layer: str
    number: int
    norm: str | None = None
    readers: list[str] = dataclasses.field(default_factory=list)
    path: list[fx.Node] = dataclasses.field(default_factory=list)
    norms: list[str] = dataclasses.field(default_factory=list)
    internal: bool = True
    output: bool = False

    @property
    def weight(self) -> str:
        """Returns the name of the layer's weight."""
        return f"{self.layer}.weight" if self.layer else "weight"


def trace(model: nn.Module) -> fx.GraphModule:
    """Returns the traced network, sharing its modules; raises PlanError where it cannot be traced."""
    try:
        return fx.symbolic_trace(model)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PlanError(f"the filters of the model cannot be followed, torch.fx does not trace it: {reason}") from error


def find_units(model: nn.Module, exclude: Iterable[str] = (), traced: fx.GraphModule | None = None) -> dict[str, Units]:
    """Returns {weight name: its units} of every convolution and linear layer that the network calls once, in order.

    Transposed convolutions and attention's projections have none here, nor have weights that `exclude` leaves out.
    """
    weights = prunable(model, exclude)
    traced = trace(model) if traced is None else traced
    modules = dict(traced.named_modules())
    calls: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    found = {}
    for name in weights:
        layer = name.removesuffix("weight").removesuffix(".")
        module = modules.get(layer)
        if not isinstance(module, SOURCES) or not name.endswith("weight") or len(calls.get(layer, ())) != 1:
            continue
        units = Units(layer, module.weight.shape[0])
        _follow(calls[layer][0], units, modules, calls, isinstance(module, nn.Linear))
        found[name] = units
    return found


def _follow(
    source: fx.Node,
    units: Units,
    modules: dict[str, nn.Module],
    calls: dict[str, list[fx.Node]],
    flat: bool,
    alone: bool = True,
) -> None:
    """Notes who reads what the source gives, through all that acts on each channel by itself; `alone`: nobody else does."""
    alone = alone and len(source.users) == 1
    for user in source.users:
        module = modules.get(str(user.target)) if user.op == "call_module" else None
        once = module is None or len(calls[str(user.target)]) == 1
        if user.op == "output":
            units.internal, units.output = False, True
        elif isinstance(module, CHANNEL_NORMS) and module.num_features == units.number and once:
            if alone and units.norm is None:
                units.norm = str(user.target)
            units.norms.append(str(user.target))
            units.path.append(user)
            _follow(user, units, modules, calls, flat, alone)
        elif _keeps_channels(user, module, flat):
            units.path.append(user)
            _follow(user, units, modules, calls, flat, alone)
        elif isinstance(module, SOURCES) and once and _reads(module, units.number, flat):
            units.readers.append(str(user.target))
        else:
            units.internal = False


def _keeps_channels(node: fx.Node, module: nn.Module | None, flat: bool) -> bool:
    kinds = _ELEMENTWISE if flat else (*_ELEMENTWISE, *_POOLING)
    if module is not None:
        return isinstance(module, tuple(k for k in kinds if isinstance(k, type))) and (
            not isinstance(module, nn.Flatten) or (module.start_dim, module.end_dim) == (1, -1)
        )
    if node.op not in ("call_function", "call_method") or not any(node.target == k for k in kinds):
        return False
    if any(isinstance(a, fx.Node) for a in [*node.args[1:], *node.kwargs.values()]):
        return False
    if node.target in (torch.flatten, "flatten"):
        return (*node.args[1:], *node.kwargs.values()) == (1,)
    if node.target in (torch.mean, "mean"):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        dims = [dims] if isinstance(dims, int) else dims
        return isinstance(dims, list | tuple) and all(isinstance(d, int) and d >= 2 for d in dims)
    return True


def _reads(reader: nn.Module, number: int, flat: bool) -> bool:
    if isinstance(reader, nn.Linear):
        return reader.in_features == number if flat else reader.in_features % number == 0
    return not flat and getattr(reader, "groups", 0) == 1 and getattr(reader, "in_channels", 0) == number


def eligible(units: dict[str, Units], layers: str = "internal") -> dict[str, Units]:
    """Returns the units that may be pruned: "internal" ones, or "all" but those that are the network's result."""
    if layers not in WHICH:
        raise PlanError(f"layers '{layers}' is unknown{suggest(layers, WHICH)}; allowed: {', '.join(WHICH)}")
    return {name: u for name, u in units.items() if (u.internal if layers == "internal" else not u.output)}
