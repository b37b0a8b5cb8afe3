"""The changes themselves: of masks, of scores, of the weights that are scored, and of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pruning import ops
from pruning.masks import Masks


def shuffle(masks: Masks, present: Mapping[str, Tensor] | None, generator: torch.Generator) -> Masks:
    """Returns the masks permuted within each layer, among the weights that `present` (or all) had left."""
    return Masks({name: _permuted([mask], [_alive(present, name, mask)], generator)[0] for name, mask in masks.items()})


def shuffle_across(masks: Masks, present: Mapping[str, Tensor] | None, generator: torch.Generator) -> Masks:
    """Returns the masks permuted across all layers, among the weights that `present` (or all) had left."""
    alive = [_alive(present, name, mask) for name, mask in masks.items()]
    return Masks(dict(zip(masks, _permuted(list(masks.values()), alive, generator), strict=True)))


def random_counts(masks: Masks, present: Mapping[str, Tensor] | None, generator: torch.Generator) -> Masks:
    """Returns random masks within `present` that keep as many weights in each layer as `masks` do."""
    noise = [
        torch.rand(mask.shape, generator=generator, dtype=torch.float64, device=generator.device).to(mask.device)
        for mask in masks.values()
    ]
    alive = [_alive(present, name, mask) for name, mask in masks.items()]
    chosen = ops.topk_masks(noise, [int(mask.sum()) for mask in masks.values()], alive=alive)
    return Masks(dict(zip(masks, chosen, strict=True)))


def inverted(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the scores negated, so that the lowest are kept."""
    return {name: -score for name, score in scores.items()}


def normal_weights(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Returns tensors like the weights, drawn from N(0, 1)."""
    return {
        name: torch.randn(weight.shape, generator=generator, device=generator.device).to(weight)
        for name, weight in weights.items()
    }


@torch.no_grad()
def reinitialize(model: nn.Module, rebuild: Callable[[], nn.Module], masks: Masks) -> None:
    """Gives the model all weights and buffers of `rebuild()`, a new sample of the initialization, under the masks."""
    model.load_state_dict(rebuild().state_dict())
    masks.apply(model)


def _alive(present: Mapping[str, Tensor] | None, name: str, mask: Tensor) -> Tensor:
    return torch.ones_like(mask) if present is None else present[name].to(mask.device)


def _permuted(masks: list[Tensor], alive: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    bits = torch.cat([mask[a] for mask, a in zip(masks, alive, strict=True)])
    order = torch.randperm(len(bits), generator=generator, device=generator.device).to(bits.device)
    parts = bits[order].split([int(a.sum()) for a in alive])
    return [torch.zeros_like(mask).masked_scatter_(a, part) for mask, a, part in zip(masks, alive, parts, strict=True)]
