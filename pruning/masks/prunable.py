"""Which weights of a network can be pruned.

Prunable are the weights of every convolution (also transposed) and linear layer (also transformers' Conv1D and
nn.Bilinear), first and last included, the projections inside `nn.MultiheadAttention`, and the matrices of recurrent
layers and their cells. Biases and normalization are not, nor, unless `include` names them, embeddings, a linear layer's
weight that is tied to one, adapters of peft (LoRA), and parameters that no known layer owns. A shared parameter counts
once, under its first name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruning.layers import TRANSPOSED, WEIGHTED, is_transposed_linear
from pruning.plan import PlanError, suggest

ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")


def prunable(model: nn.Module, exclude: Iterable[str] = (), include: Iterable[str] = ()) -> dict[str, nn.Parameter]:
    """Returns {name: parameter} of the prunable weights in the order in which the network registers them.

    `exclude` and `include` hold patterns (`*`, `?`, `[...]`) of parameters (`fc.weight`) or modules (`fc`, `layer1`). What
    fits `exclude` is left out. What fits `include` and has two or more dimensions is prunable as well, whatever owns it:
    stacked experts, embeddings; `PATTERN@AXIS` says which axis its output units lie along, the first unless said.
    Raises PlanError for a pattern that fits nothing, for a weight that cannot be pruned (not initialized, parametrized,
    quantized, complex ...) and is not excluded, and where no weight is left.
    """
    refuse_scripted(model)
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    left_out = {id(w) for w in (*embeddings(model), *adapters(model))}
    added = _included(model, include)
    owners = dict(model.named_modules())
    found = [
        (f"{path}.{key}" if path else key, module, module._parameters.get(key))
        for path, module in owners.items()
        for key in weight_keys(module)
    ]
    found = [(name, module, weight) for name, module, weight in found if id(weight) not in left_out | added.keys()]
    found += [(name, owners[name.rpartition(".")[0]], weight) for name, weight in added.values()]
    wanted: dict[int, tuple[str, nn.Module, Tensor | None]] = {}  # by id of the parameter
    names: list[str] = []  # every name that a pattern may mean, for the nearest one
    used: set[str] = set()
    excluded: set[int] = set()
    for name, module, weight in found:
        names += [name, name.rpartition(".")[0]]
        fitting = {p for p in patterns if fits(name, p)}
        used |= fitting
        if not fitting:
            wanted.setdefault(id(weight) if weight is not None else id(module), (name, module, weight))
        elif weight is not None:
            excluded.add(id(weight))  # a shared weight that is excluded under one of its names is so under all
    for pattern in patterns:
        if pattern not in used:
            raise PlanError(f"exclude '{pattern}' fits no prunable weight{suggest(pattern, names)}")
    for number, (name, module, weight) in wanted.items():
        if number not in excluded:
            _refuse(name, module, weight)
    out = {name: p for name, p in model.named_parameters() if id(p) in wanted.keys() - excluded}
    _refuse_aliases(out)
    if not out:
        why = (
            "all are excluded"
            if patterns
            else "it has no convolution, linear or recurrent layer; include others by name"
        )
        raise PlanError(f"the model has no prunable weight: {why}")
    return out


def output_axes(model: nn.Module, include: Iterable[str] = ()) -> dict[str, int]:
    """Returns {name: axis} of the weights whose output units do not lie along their first axis."""
    axes = {}
    for path, module in model.named_modules():
        if isinstance(module, TRANSPOSED) or is_transposed_linear(module):
            axes[f"{path}.weight" if path else "weight"] = 1
    for pattern in [include] if isinstance(include, str) else include:
        if axis := _axis(pattern)[1]:
            axes |= {name: axis for name, _ in _included(model, [pattern]).values()}
    return axes


def _included(model: nn.Module, include: Iterable[str]) -> dict[int, tuple[str, nn.Parameter]]:
    """Returns {id: (name, parameter)} of the parameters of two or more dimensions that the patterns fit."""
    out: dict[int, tuple[str, nn.Parameter]] = {}
    first = {id(p): name for name, p in model.named_parameters()}
    wide = {
        name: p for name, p in model.named_parameters(remove_duplicate=False) if is_lazy(p) or p.dim() > 1
    }  # one name each, and those of shared ones
    for given in [include] if isinstance(include, str) else include:
        pattern, axis = _axis(given)
        found = {name: p for name, p in wide.items() if fits(name, pattern)}
        if not found:
            raise PlanError(f"include '{given}' fits no parameter of two or more dimensions{suggest(pattern, wide)}")
        for name, parameter in found.items():
            if not is_lazy(parameter) and axis >= parameter.dim():
                raise PlanError(f"include '{given}': '{name}' is {list(parameter.shape)}, which has no axis {axis}")
            out[id(parameter)] = (first[id(parameter)], parameter)
    return out


def _axis(pattern: str) -> tuple[str, int]:
    """Returns the pattern of names and the axis of `PATTERN@AXIS`, 0 where it names none."""
    name, at, axis = pattern.rpartition("@")
    if not at:
        return pattern, 0
    if not (name and axis.isdecimal() and axis.isascii()):
        raise PlanError(f"include '{pattern}': after @ stands an axis, a whole number such as 1")
    return name, int(axis)


def fits(name: str, pattern: str) -> bool:
    """Returns whether the pattern is of the parameter or of a module around it."""
    return any(fnmatch.fnmatchcase(n, pattern) for n in _with_parents(name))


def refuse_scripted(model: nn.Module) -> None:
    """Raises PlanError where the model, or a module in it, was scripted or traced by torch.jit: its layers are hidden."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"'{name}'" if name else "the model"
            raise PlanError(f"{what} is a torch.jit.ScriptModule, whose layers are hidden: use what it was made from")


def embeddings(model: nn.Module) -> list[nn.Parameter]:
    """Returns the weights of the model's embeddings, which are not prunable, also where a linear layer shares them."""
    found = [m._parameters.get("weight") for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    return [weight for weight in found if weight is not None]


def adapters(model: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that peft's adapter layers (LoRA and its kin) add to the layers that they adapt."""
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        own = getattr(module, "adapter_layer_names", None)
        if not isinstance(own, (tuple, list)) or not any(
            k.__module__.startswith("peft.") for k in type(module).__mro__
        ):
            continue
        for name in own:
            part = getattr(module, name.partition(".")[0], None)
            if isinstance(part, nn.Module):
                found |= {id(p): p for p in part.parameters()}
    return list(found.values())


def weight_keys(module: nn.Module) -> list[str]:
    """Returns the names, within the module, of the weights that are prunable where they are ordinary parameters."""
    if isinstance(module, nn.MultiheadAttention):
        # an unused projection is registered as None; one that is not registered at all is parametrized
        return [key for key in ATTENTION if module._parameters.get(key, module) is not None]
    if isinstance(module, nn.RNNBase):
        return [name for name in module._flat_weights_names if name.startswith("weight_")]
    if isinstance(module, nn.RNNCellBase):
        return ["weight_ih", "weight_hh"]
    if isinstance(module, nn.Bilinear) or is_transposed_linear(module):
        return ["weight"]
    quantized = type(module).__module__.startswith(_QUANTIZED) and hasattr(module, "weight")
    return ["weight"] if isinstance(module, WEIGHTED) or quantized else []


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]


def _refuse(name: str, module: nn.Module, weight: Tensor | None) -> None:
    """Raises PlanError where the weight cannot be pruned, with the reason and the way out."""
    kind = type(module).__name__
    if weight is None:
        if type(module).__module__.startswith(_QUANTIZED):
            reason = "is quantized: prune before quantizing"
        else:
            own = ", ".join(key for key, _ in module.named_parameters()) or "none"
            reason = f"is not a parameter itself but computed from others ({own}): remove the reparametrization first"
    elif is_lazy(weight):
        reason = "is not initialized: run one batch through the model first"
    elif weight.device.type == "meta":
        reason = "has no values (device 'meta')"
    elif weight.layout != torch.strided or type(weight.detach()) is not Tensor:
        reason = f"is no plain dense tensor but {type(weight.detach()).__name__}, {weight.layout}"
    elif not weight.numel():
        reason = f"has no entries, its shape is {list(weight.shape)}"
    elif weight.dtype not in DTYPES:
        allowed = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        reason = f"has dtype {str(weight.dtype).removeprefix('torch.')}; allowed are {allowed}"
    else:
        return
    raise PlanError(f"'{name}' ({kind}) cannot be pruned: it {reason}, or exclude it")


def _refuse_aliases(weights: Mapping[str, Tensor]) -> None:
    at: dict[tuple[int, Any], str] = {}
    for name, weight in weights.items():
        key = (weight.untyped_storage().data_ptr(), weight.storage_offset())
        if weight.numel() and at.setdefault(key, name) != name:
            raise PlanError(f"'{name}' and '{at[key]}' share memory but are two parameters: make them one")
