"""Masks by parameter name: applied, counted, checked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning import ops
from pruning.masks import storage
from pruning.masks.prunable import prunable
from pruning.plan import PlanError, suggest

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes -> integers of that size


def keep_count(total: int, sparsity: float) -> int:
    """Returns how many of `total` weights stay at `sparsity`: round((1 - sparsity) * total)."""
    if not 0 <= sparsity <= 1:
        raise PlanError(f"sparsity must lie in [0, 1], not {sparsity:g}")
    return round((1 - sparsity) * total)


class Masks(Mapping[str, Tensor]):
    """Masks by parameter name in network order; True is kept.

    `extra` holds masks of parameters that are not prunable by themselves, as a removed filter's bias and normalization:
    they are applied, enforced and saved like the others, but no count, density or sparsity includes them.
    """

    def __init__(self, masks: Mapping[str, Tensor], extra: Mapping[str, Tensor] | None = None) -> None:
        self._masks, self.extra = dict(masks), dict(extra or {})
        for name, mask in self.everything().items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                raise PlanError(f"the mask of '{name}' must be a bool tensor, not {getattr(mask, 'dtype', type(mask))}")
        if both := self._masks.keys() & self.extra.keys():
            raise PlanError(f"'{min(both)}' has two masks")

    @classmethod
    def full(cls, weights: Mapping[str, Tensor]) -> Masks:
        """Returns masks that keep every entry of the weights."""
        return cls({name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()})

    @classmethod
    def from_zeros(cls, model: nn.Module, exclude: Iterable[str] = (), include: Iterable[str] = ()) -> Masks:
        """Returns masks that prune just what is 0 of the model's prunable weights: those of a checkpoint that is sparse already."""
        return cls({name: weight.detach() != 0 for name, weight in prunable(model, exclude, include).items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self.kept} of {self.total} weights kept)"

    def everything(self) -> dict[str, Tensor]:
        """Returns {name: mask} with the extra ones."""
        return {**self._masks, **self.extra}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Returns {name: (kept, total)}."""
        kept = count_nonzeros(list(self._masks.values()))
        return {name: (k, mask.numel()) for (name, mask), k in zip(self._masks.items(), kept, strict=True)}

    @property
    def kept(self) -> int:
        """Returns how many weights are kept."""
        return sum(count_nonzeros(list(self._masks.values())))

    @property
    def total(self) -> int:
        """Returns how many weights have a mask."""
        return sum(mask.numel() for mask in self._masks.values())

    @property
    def density(self) -> float:
        """Returns kept / total."""
        return self.kept / self.total if self.total else 1.0

    @property
    def sparsity(self) -> float:
        """Returns 1 - density."""
        return 1.0 - self.density

    @property
    def compression(self) -> float:
        """Returns 1 / density; infinite where nothing is kept."""
        return 1.0 / self.density if self.density else math.inf

    def match(self, model: nn.Module) -> dict[nn.Parameter, Tensor]:
        """Returns {parameter: mask on its device}; raises PlanError for a name the model lacks or another shape."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        out = {}
        for name, mask in self.everything().items():
            if name not in parameters:
                raise PlanError(f"the masks name '{name}', which the model lacks{suggest(name, parameters)}")
            parameter = parameters[name]
            if parameter.shape != mask.shape:
                raise PlanError(f"the mask of '{name}' is {list(mask.shape)}, the weight {list(parameter.shape)}")
            if parameter in out:
                raise PlanError(f"'{name}' is one parameter with another name that has a mask too")
            out[parameter] = mask.to(parameter.device)
        return out

    def check(self, model: nn.Module) -> None:
        """Raises PlanError where a mask has no parameter of its name and shape in the model."""
        self.match(model)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Writes exactly +0 to every pruned entry of the model's parameters; writes nothing where a mask misfits."""
        for parameter, mask in self.match(model).items():
            parameter.masked_fill_(~mask, 0.0)

    def violations(self, state: Mapping[str, Tensor]) -> list[str]:
        """Returns the names, among those in `state`, of which a pruned entry is not exactly +0 (-0 and NaN are not)."""
        out = []
        for name, mask in self.everything().items():
            if name not in state:
                continue
            value = state[name].detach()
            if value.shape != mask.shape:
                raise PlanError(f"the mask of '{name}' is {list(mask.shape)}, the weight {list(value.shape)}")
            bits = value.view(_BITS[value.element_size()])  # all 0 in +0 alone
            if bool((bits.bool() & ~mask.to(value.device)).any()):
                out.append(name)
        return out

    def to(self, device: torch.device | str) -> Masks:
        """Returns the masks on another device."""
        return Masks(
            {name: mask.to(device) for name, mask in self._masks.items()},
            {name: mask.to(device) for name, mask in self.extra.items()},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, whole or not at all: one bit per weight, shapes and order as metadata."""
        storage.write(Path(path), self._masks, self.extra)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Masks:
        """Returns the masks of a file that :meth:`save` wrote; raises PlanError where that is absent or damaged."""
        return cls(*storage.read(Path(path)))


def count_nonzeros(tensors: list[Tensor]) -> list[int]:
    """Returns how many entries of each tensor are not zero, by one call of `ops.nnz` per device."""
    places: dict[torch.device, list[int]] = {}
    for i, tensor in enumerate(tensors):
        places.setdefault(tensor.device, []).append(i)
    counts = [0] * len(tensors)
    for indices in places.values():
        for i, count in zip(indices, ops.nnz([tensors[i] for i in indices]).tolist(), strict=True):
            counts[i] = count
    return counts


def empty_layers(masks: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the layers that keep no weight: what lies behind them is cut off, but for ways around."""
    return [name for name, mask in masks.items() if not bool(mask.any())]
