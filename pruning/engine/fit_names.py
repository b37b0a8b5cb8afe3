"""A checkpoint's tensors brought under a network's names: prefixes of wrappers, masks of torch.nn.utils.prune, ties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruning.errors import PlanError, suggest
from pruning.masks import Masks, prunable
from pruning.record.foreign import Foreign
from pruning.value_range import finite

WRAPPERS = ("module.", "_orig_mod.")


@dataclass
class Fit:
    """What a checkpoint gives a network: its tensors under the network's names, masks, and what does not fit."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    masks: Masks | None = None
    missing: list[str] = field(default_factory=list)  # names of the network that the checkpoint lacks
    extra: list[str] = field(default_factory=list)  # names of the checkpoint that the network lacks
    misfits: list[str] = field(default_factory=list)  # `'fc.weight' [1000, 512] for [10, 512]`
    outside: list[str] = field(default_factory=list)  # of the checkpoint, beside the network's prefix

    def describe(self) -> str:
        """Returns one line on what does not fit, with the nearest names."""
        parts = []
        if self.missing:
            near = [f"'{name}'{suggest(name, self.extra)}" for name in self.missing[:3]]
            parts.append(f"it lacks {_some(near, len(self.missing))}")
        if self.extra:
            parts.append(f"the network lacks its {_some([repr(n) for n in self.extra[:3]], len(self.extra))}")
        if self.misfits:
            parts.append(f"shapes differ: {_some(self.misfits[:3], len(self.misfits))}")
        return "; ".join(parts)


def fit(network: nn.Module, foreign: Foreign) -> Fit:
    """Returns what of the checkpoint the network takes; raises PlanError where that is nothing or cannot be used."""
    own = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    given, pruned = _unmasked(foreign)
    given, outside = _renamed(given, own)
    pruned, _ = _renamed(pruned, own, given)
    out = Fit(outside=outside)
    for name, value in given.items():
        if name not in own:
            out.extra.append(name)
        elif value.shape != own[name].shape:
            out.misfits.append(f"'{name}' {list(value.shape)} for {list(own[name].shape)}")
        else:
            out.tensors[name] = _checked(name, value, own[name], foreign.source)
    here = {own[name].data_ptr() for name in out.tensors if own[name].numel()}
    tied = {name for name, value in own.items() if value.numel() and value.data_ptr() in here}
    wrong = {text.split("'")[1] for text in out.misfits}
    out.missing = [
        name
        for name in own
        if name not in out.tensors.keys() | tied | wrong and not name.endswith("num_batches_tracked")
    ]
    if not out.tensors:
        known = ", ".join(repr(name) for name in [*given][:3])
        raise PlanError(
            f"weights '{foreign.source}' are of another network: none of their {len(given)} tensors ({known} ...) is one of "
            f"the network's {len(own)} ({', '.join(repr(name) for name in [*own][:3])} ...)"
        )
    out.masks = _masks(network, {name: mask for name, mask in pruned.items() if name in out.tensors})
    return out


def put(network: nn.Module, found: Fit) -> None:
    """Writes the tensors that fit into the network; others stay as they are."""
    network.load_state_dict(found.tensors, strict=False)
    if found.masks is not None:
        found.masks.apply(network)


def _unmasked(foreign: Foreign) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns (tensors, masks), `x_orig` and `x_mask` of torch.nn.utils.prune as the x that they stand for."""
    tensors, masks = dict(foreign.tensors), {}
    for name in foreign.tensors:
        base = name.removesuffix("_orig")
        if base != name and (mask := tensors.get(f"{base}_mask")) is not None:
            if mask.shape != tensors[name].shape or not bool(((mask == 0) | (mask == 1)).all()):
                raise PlanError(f"weights '{foreign.source}': '{base}_mask' is no mask of '{name}'")
            masks[base] = mask != 0
            tensors[base] = tensors.pop(name) * masks[base]
            del tensors[f"{base}_mask"]
    return tensors, masks


def _renamed(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns (tensors under the network's names as far as prefixes make them differ, names beside the prefix).

    The prefix, taken off or put on, is the one under which most names are the network's.
    """
    plain = {}
    for name, value in tensors.items():
        short = name
        while short not in own and any(part in f".{short}" for part in (f".{w}" for w in WRAPPERS)):
            for wrapper in WRAPPERS:
                short = f".{short}".replace(f".{wrapper}", ".", 1)[1:] if f".{wrapper}" in f".{short}" else short
        plain[short] = value
    if like is not None:
        return {name if name in like else _by_end(name, like): value for name, value in plain.items()}, []
    fits: Counter[tuple[str, str]] = Counter({("", ""): sum(name in own for name in plain)})
    for name in plain:
        for taken in _heads(name):
            fits[taken, ""] += name.removeprefix(taken) in own
    for name in own:
        for put_on in _heads(name):
            fits["", put_on] += name.removeprefix(put_on) in plain
    best = max(fits, key=lambda pair: (fits[pair], -len(pair[0]) - len(pair[1])))
    taken, put_on = best
    outside = [name for name in plain if not name.startswith(taken)]
    return {
        put_on + name.removeprefix(taken): value for name, value in plain.items() if name.startswith(taken)
    }, outside


def _by_end(name: str, like: Mapping[str, Tensor]) -> str:
    """Returns the name among `like` that the name, under another prefix, ends with or is the end of."""
    ends = [other for other in like if name.endswith(f".{other}") or other.endswith(f".{name}")]
    return max(ends, key=len) if ends else name


def _heads(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) + "." for i in range(1, min(len(parts), 4))]


def _checked(name: str, value: Tensor, own: Tensor, source: str) -> Tensor:
    """Returns the tensor in the network's dtype; raises PlanError where that would be another thing."""
    kind = str(value.dtype).removeprefix("torch.")
    if value.is_quantized or (own.is_floating_point() and not value.is_floating_point()):
        raise PlanError(f"weights '{source}': '{name}' is {kind}, of a quantized network; take what it was made from")
    if value.layout != torch.strided:
        raise PlanError(f"weights '{source}': '{name}' has layout {value.layout}; save it dense, value.to_dense()")
    if value.is_complex() != own.is_complex():
        raise PlanError(
            f"weights '{source}': '{name}' is {kind}, the network's {str(own.dtype).removeprefix('torch.')}"
        )
    if value.is_floating_point() and not finite(value):
        raise PlanError(f"weights '{source}': '{name}' holds values that are not finite")
    return value.to(own.dtype)


def _masks(network: nn.Module, pruned: Mapping[str, Tensor]) -> Masks | None:
    if not pruned:
        return None
    weights = prunable(network)
    whole = {name: pruned.get(name, torch.ones_like(w, dtype=torch.bool)) for name, w in weights.items()}
    return Masks(whole, {name: mask for name, mask in pruned.items() if name not in weights})


def _some(shown: list[str], number: int) -> str:
    return ", ".join(shown) + (f" and {number - len(shown)} more" if number > len(shown) else "")
