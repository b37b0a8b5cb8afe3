"""Methods that compute the used weights from stored ones in every forward pass, and how their result becomes plain.

The formula is the `forward` of a parametrization (torch.nn.utils.parametrize) on each prunable weight; the stored tensor
keeps the optimizer's state and every value that a mask hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruning import ops
from pruning.masks import Masks, prunable
from pruning.methods.base import Method, Task
from pruning.methods.gradients import StraightThrough

_STORED = ".original"
_INSIDE = ".parametrizations."


class Formula(nn.Module):
    """A parametrization that knows which of its stored weights are in use."""

    def kept(self, weight: Tensor) -> Tensor:
        """Returns the bool mask of the stored weights that are in use, in the weight's shape."""
        raise NotImplementedError


class Reparametrized(Method):
    """The common part: attaches one formula per weight, counts, and bakes the result into plain parameters."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.formulas: dict[str, Formula] = {}
        self.weights: dict[str, nn.Parameter] = {}  # the stored ones
        self._places: list[
            tuple[str, nn.Module, str, list[str]]
        ] = []  # name, module, attribute, order of its parameters

    def parametrize(self, model: nn.Module, make: Callable[[nn.Parameter], Formula]) -> None:
        """Gives every prunable weight of the model the formula that `make` returns for it; a shared weight has one."""
        self.weights = dict(prunable(model, self.task.exclude))
        names = {id(weight): name for name, weight in self.weights.items()}
        self.formulas = {name: make(weight).to(weight.device) for name, weight in self.weights.items()}
        for module in list(model.modules()):
            order = list(module._parameters)
            for key in order:
                name = names.get(id(module._parameters[key]))
                if name is not None:
                    parametrize.register_parametrization(module, key, self.formulas[name], unsafe=True)
                    self._places.append((name, module, key, order))

    @torch.no_grad()
    def kept(self) -> Masks:
        """Returns which weights are in use now."""
        return Masks({name: formula.kept(self.weights[name]) for name, formula in self.formulas.items()})

    def density(self) -> float:
        """Returns kept / total of the weights in use."""
        return self.kept().density

    @torch.no_grad()
    def finish(self) -> Masks:
        """Returns the masks of the used weights, and leaves the used values as plain parameters, +0 where unused."""
        masks = self.kept()
        used = {name: getattr(module, key).detach().clone() for name, module, key, _ in self._places}
        for _, module, key, order in self._places:
            parametrize.remove_parametrizations(module, key, leave_parametrized=False)
            if len(module._parameters) == len(order):
                module._parameters.update({k: module._parameters.pop(k) for k in order})
        for name, weight in self.weights.items():
            weight.copy_(used[name].where(masks[name], 0.0))
        return masks


class Masked(Formula):
    """w where the mask keeps it; the gradient reaches kept weights only, or all of them straight through."""

    mask: Tensor

    def __init__(self, like: Tensor, straight_through: bool) -> None:
        super().__init__()
        self.straight_through = straight_through
        self.register_buffer("mask", torch.ones_like(like, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the used weights."""
        if self.straight_through:
            return StraightThrough.apply(weight, self.mask)
        return weight.where(self.mask, 0.0)

    def kept(self, weight: Tensor) -> Tensor:
        """Returns the mask."""
        return self.mask


class MaskedMethod(Reparametrized):
    """Methods whose weights live on behind masks that are drawn anew: the masks are buffers of the model."""

    straight_through: ClassVar[bool] = True

    def attach(self, model: nn.Module) -> list[dict[str, Any]]:
        """Returns no groups; the model gets masks that keep everything."""
        self.parametrize(model, lambda weight: Masked(weight, self.straight_through))
        return []

    def _buffers(self) -> list[Tensor]:
        return [formula.mask for formula in self.formulas.values() if isinstance(formula, Masked)]

    @torch.no_grad()
    def keep_largest(self, keep: int | list[int]) -> None:
        """Draws the masks anew: the `keep` largest stored magnitudes of all layers together, or counts layer by layer."""
        ops.topk_masks(list(self.weights.values()), keep, magnitude=True, out=self._buffers())

    @torch.no_grad()
    def use(self, masks: Mapping[str, Tensor]) -> None:
        """Takes masks by name into the model's buffers."""
        for buffer, mask in zip(self._buffers(), masks.values(), strict=True):
            buffer.copy_(mask)


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns stored weights and their optimizer state under the plain network's names, without what a method added.

    `conv1.parametrizations.weight.original` is `conv1.weight`.
    """
    out = {}
    for name, tensor in tensors.items():
        if _INSIDE not in f".{name.rpartition(':')[2]}":
            out[name] = tensor
        elif name.endswith(_STORED):
            out[name.removesuffix(_STORED).replace(_INSIDE[1:], "")] = tensor
    return out


def group(parameters: Iterable[nn.Parameter], weight_decay: float, lr_factor: float = 1.0) -> dict[str, Any]:
    """Returns a parameter group of a method's own parameters, with its decay and its multiple of the learning rate."""
    return {"params": list(parameters), "weight_decay": weight_decay, "lr_factor": lr_factor}
