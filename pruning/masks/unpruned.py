"""What masks leave out: the parameters of two or more dimensions that stay dense, and their share of all such weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from pruning.masks.prunable import adapters, embeddings

TELLING = 0.1  # the share left out from which on the sparsity of the whole network stands beside that of the masks
SHOWN = 6  # entries that a sentence names


def unpruned(model: nn.Module, masks: Iterable[str]) -> list[dict[str, Any]]:
    """Returns what has no mask, the largest first: {"module", "type", "weights", "why", "parameters"} of each owning module.

    Counted are parameters of two or more dimensions, shared ones once. `masks` holds the names that have a mask; `why` is
    "embedding", "adapter" or "" where nothing but its type keeps it out; `parameters` are their names.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    seen = {id(named[name]) for name in masks if name in named}
    reasons = {id(w): "embedding" for w in embeddings(model)} | {id(w): "adapter" for w in adapters(model)}
    owners = dict(model.named_modules())
    found: dict[str, dict[str, Any]] = {}
    for name, parameter in named.items():
        if id(parameter) in seen or is_lazy(parameter) or parameter.dim() < 2:
            continue
        seen.add(id(parameter))
        path = name.rpartition(".")[0]
        why = reasons.get(id(parameter), "")
        kind = type(owners[path]).__name__
        entry = found.setdefault(path, {"module": path, "type": kind, "weights": 0, "why": why, "parameters": []})
        entry["weights"] += parameter.numel()
        entry["parameters"].append(name)
    return sorted(found.values(), key=lambda entry: -entry["weights"])


def all_weights(model: nn.Module) -> int:
    """Returns how many entries the parameters of two or more dimensions have."""
    return sum(p.numel() for p in model.parameters() if not is_lazy(p) and p.dim() > 1)


def model_sparsity(model: nn.Module, counts: Mapping[str, tuple[int, int]]) -> float:
    """Returns the share of pruned entries among all parameters of two or more dimensions, those without a mask included.

    `counts` are {name: (kept, total)} of the masks.
    """
    total = all_weights(model)
    return sum(whole - kept for kept, whole in counts.values()) / total if total else 0.0


def sentence(left: Sequence[Mapping[str, Any]], total: int) -> str:
    """Returns one line on what is left dense, of `total` weights in all, each module named with its size."""
    out = sum(entry["weights"] for entry in left)
    share = f"{100 * (total - out) / total:.3g} %"
    kinds = "parameters with two or more dimensions"
    return f"{short(total - out)} of {short(total)} {kinds} are prunable ({share}); left dense: {named(left)}"


def named(left: Sequence[Mapping[str, Any]]) -> str:
    """Returns the largest entries with their sizes, `LSTM rnn (1.31 M)`, and how many more there are."""
    parts = [f"{entry['type']} {_where(entry)} ({short(entry['weights'])})" for entry in left[:SHOWN]]
    if rest := left[SHOWN:]:
        parts.append(f"{len(rest)} more ({short(sum(entry['weights'] for entry in rest))})")
    return ", ".join(parts)


def _where(entry: Mapping[str, Any]) -> str:
    """Returns a layer's path, or the names of parameters that have names of their own."""
    names = [str(name) for name in entry["parameters"]]
    layer = entry["module"] and all(name.rpartition(".")[2].startswith(("weight", "in_proj")) for name in names)
    return str(entry["module"]) if layer else "/".join([*names[:3], *(["..."] if names[3:] else [])])


def short(count: int) -> str:
    """Returns `1.31 M` for 1310720; below ten thousand the number itself."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size and count >= 1e4:
            return f"{count / size:.3g} {unit}"
    return f"{count:,}"
