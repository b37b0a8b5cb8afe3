"""Multiply-accumulates (MACs) per layer, dense and nonzero; FLOPs are 2 x MACs. The speedup is theoretical.

Counted are the products with a parameter wherever it is used (modules called several times, shared and grouped ones,
attention's projections, recurrent layers, stacked experts) and the products of activations (attention's own), which no
pruning makes smaller. Biases, activation functions, pooling and sums count as nothing; normalization and operations of
others are listed as uncounted.

Conventions: with w weights of a layer, of which n are nonzero, used at p positions, MACs = w p and sparse MACs = n p.
- "true": p is the number of output positions (of input positions in a transposed convolution), padding included, the
  rows that a linear layer is given, or the steps of a recurrent layer, summed over all calls. A recurrent layer of h units
  and i inputs has gates h (i + h) MACs a step (an LSTM 4 gates, a GRU 3). Attention of L queries and S keys of width E has
  2 L S E MACs a head, masked positions included.
- "weights": like it, without the products of activations.
- "shrinkbench" (Blalock et al. 2020 and its copy behind Zimmer et al. 2023): Conv2d and Linear only;
  c_in c_out k_h k_w ceil(H / stride_h) ceil(W / stride_w) of the input's H and W as if padded to fit, groups ignored;
  in x out for a linear layer, whatever the length of its sequence. A dilated or repeated layer is an error, as there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruning.flops.trace import Handle, Trace
from pruning.layers import NORMS, WEIGHTED
from pruning.masks import DTYPES, Masks, count_nonzeros, embeddings, refuse_scripted
from pruning.plan import Convention, PlanError, choices, suggest
from pruning.undisturbed import undisturbed


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: its module's name and type, its weights without biases, its MACs for one example.

    Products of activations have a row of their own, of type "product", without weights: dense and sparse MACs are the same.
    """

    name: str
    type: str
    params: int
    nonzero: int
    macs: int
    sparse_macs: int


@dataclasses.dataclass(frozen=True)
class Report:
    """The count of a model: `params` are all its parameters, `nonzero` those without the zeros of prunable weights."""

    layers: list[Layer]
    params: int
    nonzero: int
    uncounted: list[str]
    convention: str

    @property
    def macs(self) -> int:
        """Returns the MACs of all layers for one example."""
        return sum(layer.macs for layer in self.layers)

    @property
    def sparse_macs(self) -> int:
        """Returns the MACs with a nonzero weight."""
        return sum(layer.sparse_macs for layer in self.layers)

    @property
    def speedup(self) -> float:
        """Returns MACs over sparse MACs, the theoretical speedup; infinite where no weight is left."""
        if self.sparse_macs:
            return self.macs / self.sparse_macs
        return math.inf if self.macs else 1.0


def count_macs(
    model: nn.Module,
    example_input: Any,
    masks: Masks | Mapping[str, Tensor] | None = None,
    convention: str = "true",
    *,
    batch_dim: int = 0,
    handles: Mapping[str, Handle] | None = None,
) -> Report:
    """Returns the MACs of the model in eval mode for one example, per layer and in all; leaves the model as it was.

    `example_input` is a tensor with a batch dimension, or a tuple or dict of what the model is called with; of a batch
    the first example is taken. A weight counts as zero where its mask is False or, where it has no mask, if it is 0.
    `handles` {"library::operation": (arguments, output) -> MACs} count operations that are not known here.
    """
    allowed = choices(Convention)
    if convention not in allowed:
        hint = suggest(convention, allowed)
        raise PlanError(f"convention '{convention}' is unknown{hint}; allowed: {', '.join(allowed)}")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter) or parameter.device.type == "meta":
            raise PlanError(f"'{name}' has no values yet: initialize the model before its MACs are counted")
    refuse_scripted(model)
    pruned = {} if masks is None else (masks if isinstance(masks, Masks) else Masks(masks)).match(model)
    args, kwargs = _one_example(model, example_input, batch_dim)
    trace = Trace(model, convention, _checked(handles or {}))
    with undisturbed(model), trace.following(), torch.no_grad(), trace:
        try:
            model(*args, **kwargs)
        except PlanError:
            raise
        except Exception as error:
            sizes = [list(t.shape) for t in [*args, *kwargs.values()] if isinstance(t, Tensor)]
            reason = " ".join(str(error).split())
            raise PlanError(f"the model does not run on one example of shape {sizes}: {reason}") from error
    return _report(model, trace, pruned)


def _checked(handles: Mapping[str, Handle]) -> Mapping[str, Handle]:
    for op, handle in handles.items():
        if not isinstance(op, str) or "::" not in op or not callable(handle):
            raise PlanError(
                f"handles map an operation, as 'library::operation', to a function of its MACs, not {op!r} to {handle!r}"
            )
    return handles


def _one_example(model: nn.Module, example: Any, batch_dim: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns what to call the model with: its first example, on the model's device and in its floating dtype."""
    like = next(model.parameters(), torch.empty(0))
    args = tuple(example) if isinstance(example, tuple | list) else () if isinstance(example, Mapping) else (example,)
    kwargs = dict(example) if isinstance(example, Mapping) else {}
    sizes = [t.shape[batch_dim] for t in [*args, *kwargs.values()] if isinstance(t, Tensor) and t.dim() > batch_dim]
    if not sizes or sizes[0] == 0:
        raise PlanError(f"the example input needs a tensor with a batch in dimension {batch_dim}, not an empty one")

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dim() > batch_dim and value.shape[batch_dim] == sizes[0]:
            value = value.narrow(batch_dim, 0, 1)
        floating = value.is_floating_point() and like.is_floating_point()
        return value.to(like.device, like.dtype if floating else value.dtype)

    return tuple(one(a) for a in args), {key: one(a) for key, a in kwargs.items()}


def _report(model: nn.Module, trace: Trace, pruned: Mapping[nn.Parameter, Tensor]) -> Report:
    weights = [w for own in trace.layers.values() for w in own if w.dtype in DTYPES]
    whole = {w: i for i, w in enumerate(weights)}
    tensors = [pruned.get(w, w.detach()) for w in weights]
    places = {}  # key of a use -> its place among the tensors that are counted
    for key, (_, tensor, weight) in trace.used.items():
        if weight is not None and tensor.numel() == weight.numel():
            places[key] = whole[weight]
        else:
            places[key] = len(tensors)
            tensors.append(tensor if weight is None or weight not in pruned else _part(pruned[weight], weight, tensor))
    counts = count_nonzeros(tensors)
    layers = []
    for name, own in trace.layers.items():
        keys = [key for key, (layer, _, _) in trace.used.items() if layer == name]
        params = sum(w.numel() for w in own)
        nonzero = sum(counts[whole[w]] if w in whole else w.numel() for w in own)
        if not own and keys:  # a parametrized layer's weight is seen only where it is used
            params, nonzero = tensors[places[keys[0]]].numel(), counts[places[keys[0]]]
        macs = sum(tensors[places[key]].numel() * trace.positions[key] for key in keys)
        sparse = sum(counts[places[key]] * trace.positions[key] for key in keys)
        layers.append(Layer(name, type(trace.modules[name]).__name__, params, nonzero, macs, sparse))
    for name in dict.fromkeys(name for name, _ in trace.products):
        macs = sum(count for (module, _), count in trace.products.items() if module == name)
        layers.append(Layer(name, "product", 0, 0, macs, macs))
    embedded = set(embeddings(model))
    total = sum(p.numel() for p in model.parameters())
    zeros = sum(w.numel() - counts[i] for w, i in whole.items() if w not in embedded or w in pruned)
    rest = [mask for parameter, mask in pruned.items() if parameter not in whole]
    zeros += sum(mask.numel() - kept for mask, kept in zip(rest, count_nonzeros(rest), strict=True))
    return Report(
        layers, total, total - zeros, _uncounted(trace, {name for name, _, _ in trace.used.values()}), trace.convention
    )


def _part(mask: Tensor, weight: Tensor, view: Tensor) -> Tensor:
    """Returns the part of the weight's mask that the view is of the weight."""
    laid = torch.empty_strided(weight.size(), weight.stride(), dtype=torch.bool, device=mask.device).copy_(mask)
    return laid.as_strided(view.size(), view.stride(), view.storage_offset() - weight.storage_offset())


def _uncounted(trace: Trace, counted: set[str]) -> list[str]:
    """Returns a line per type of module: those that do arithmetic which is not counted, and layers never used."""
    groups: dict[str, list[str]] = {}
    for name, module in trace.modules.items():
        kind = type(module).__name__
        leaf = not any(True for _ in module.children())
        known = isinstance(module, (*WEIGHTED, nn.Embedding, nn.EmbeddingBag))
        if trace.other.get(name):
            groups.setdefault(f"{kind} ({', '.join(sorted(trace.other[name]))})", []).append(name)
        elif name in trace.touched and name not in counted and not known:
            groups.setdefault(f"{kind} ({', '.join(sorted(trace.touched[name]))})", []).append(name)
        elif (
            trace.called[name]
            and not known
            and name not in counted
            and (isinstance(module, NORMS) or (leaf and module._parameters))
        ):
            groups.setdefault(kind, []).append(name)
        elif name in trace.layers and name not in counted:
            groups.setdefault(f"{kind}, never used", []).append(name)
    return [f"{what}: {_list(names)}" for what, names in groups.items()]


def _list(names: list[str]) -> str:
    shown = [name or "the model itself" for name in names]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:3], f"and {len(shown) - 3} more"])
