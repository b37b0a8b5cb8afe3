"""Methods that compute the used weights from stored ones in every forward pass, and how their result becomes plain.

The formula is the `forward` of a parametrization (torch.nn.utils.parametrize) on each prunable weight; the stored tensor
keeps the optimizer's state and every value that a mask hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruning.masks import Masks, prunable
from pruning.training.methods.base import Budget, Method

_STORED = ".original"
_INSIDE = ".parametrizations."


class Formula(nn.Module):
    """A parametrization that knows which of its stored weights are in use."""

    def kept(self, weight: Tensor) -> Tensor:
        """Returns the bool mask of the stored weights that are in use, in the weight's shape."""
        raise NotImplementedError


class Reparametrized(Method):
    """The common part: attaches one formula per weight, counts, and bakes the result into plain parameters."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget
        self.formulas: dict[str, Formula] = {}
        self.weights: dict[str, nn.Parameter] = {}  # the stored ones
        self._places: list[
            tuple[str, nn.Module, str, list[str]]
        ] = []  # name, module, attribute, order of its parameters

    def parametrize(self, model: nn.Module, make: Callable[[nn.Parameter], Formula]) -> None:
        """Gives every prunable weight of the model the formula that `make` returns for it; a shared weight has one."""
        self.weights = dict(prunable(model, self.budget.exclude, self.budget.include))
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
