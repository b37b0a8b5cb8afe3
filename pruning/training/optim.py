"""SGD that keeps pruned weights at exactly +0, and the same promise for any other torch optimizer.

Masked weights are updated by `ops.masked_sgd_`, one call for all of a parameter group (per device and dtype), or by
`ops.indexed_sgd_` where so few survive that a list of them is faster (`masked_weight`), to the same bits. Everything else goes
through torch's own SGD, so that without masks the two are the same to the bit. The state has torch's layout,
`momentum_buffer`; that of 16-bit masked weights is float32. With `masters` 16-bit parameters have a float32 copy in
it too, `master`, which the updates go to (`pruning.training.masters`).
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import SGD, sgd

from pruning import ops
from pruning.masks import Masks
from pruning.masks.shards import local, sharded
from pruning.plan import PlanError
from pruning.training.enforcing import held_by, zero_pruned
from pruning.training.enforcing import mask_gradients as mask_gradients
from pruning.training.masked_weight import MaskedWeight
from pruning.training.masters import KEY as _MASTER
from pruning.training.masters import Masters

_KEY = "momentum_buffer"
TELLING = 0.1  # the share of weights that are 0 with their momenta from which on masks must have been forgotten


class MaskedSGD(SGD):
    """torch.optim.SGD under masks: after every step pruned weights and their momenta are exactly +0.

    `foreach` and `fused` choose the implementation for the parameters without masks, as in torch.optim.SGD. Masks are
    no part of the state dict: a resumed optimizer gets them by :meth:`set_masks` again. Copies and pickles carry them.
    Whoever writes to a pruned entry through `weight.data` or numpy, which no version counts, finds it +0 again after
    SWEEP steps at the latest. `state` is read anew for every look: a momentum buffer held across steps is not updated.

    With `masters` every bfloat16 or float16 parameter, masked or not, has a float32 master of its shape in
    `state[parameter]["master"]`, made from it at its first step. Updates and momenta are float32 and the parameter is the
    master's rounding after every step: masked ones through `ops.masked_sgd_`, those without a mask (biases, BatchNorm)
    through torch's SGD on their masters. Other parameters are updated as without it. A write to a parameter between
    steps that torch's version counts is noticed: entries that changed are read again from it; one through
    `parameter.data` is lost at the next step. Raises PlanError for a master that does not fit its parameter.
    """

    SWEEP = 64  # every so many steps no list is used: pruned entries written past torch's notice become +0 again

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        masters: bool = False,
    ) -> None:
        self._masked: dict[nn.Parameter, MaskedWeight] = {}
        self._members: list[tuple[list[Tensor], list[MaskedWeight]]] = []
        self._steps = 0
        self._masters = Masters(masters)
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, foreach=foreach, fused=fused)
        self._step_supports_amp_scaling = False  # a GradScaler unscales the gradients itself, as for unfused optimizers

    def set_masks(self, model: nn.Module, masks: Masks | Mapping[str, Tensor]) -> None:
        """Takes the masks for all steps to come in place of earlier ones; pruned weights, momenta, masters are +0 at once.

        Mask tensors on the weights' device are not copied: a change to one in place holds from the next step on. Of a DTensor each
        rank holds its own part, without lists and masters; that part of the mask is a copy.
        """
        matched = held_by([self], model, masks)
        if any(sharded(parameter) and self._masters.serve(parameter) for parameter in matched):
            raise PlanError(
                "masters=True takes no sharded parameters: shard float32 ones by fully_shard's MixedPrecisionPolicy"
            )
        state = self.state
        self._masked = {parameter: MaskedWeight(parameter, mask) for parameter, mask in matched.items()}
        self._members = []
        for parameter, mask in matched.items():
            zero_pruned(parameter, state.get(parameter, {}), mask)

    def clear_masks(self) -> None:
        """Forgets the masks: from the next step on every weight is trained."""
        self._state = self.state  # with whole momenta, before what survivors hold is forgotten
        self._masked, self._members = {}, []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, as in torch.optim.SGD."""
        super().add_param_group(param_group)
        self._members = []

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """Returns the state in torch's layout, {parameter: {"momentum_buffer": tensor of its shape}}, and "master"."""
        for parameter, kept in self._masked.items():
            if kept.momenta is not None:
                self._state[parameter][_KEY] = kept.scatter()
            kept.buffer = None  # whoever looks may put another in its place
        return self._state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self._state = state
        self._masters.forget()
        for kept in self._masked.values():
            kept.momenta = kept.buffer = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Returns the closure's loss, or None without one, after one update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._steps += 1
        if len(self._members) != len(self.param_groups):
            self._members = [
                (
                    [p for p in group["params"] if p not in self._masked],
                    [self._masked[p] for p in group["params"] if p in self._masked],
                )
                for group in self.param_groups
            ]
        for group, (free, masked) in zip(self.param_groups, self._members, strict=True):
            self._step_free(group, [p for p in free if p.grad is not None])
            self._step_masked(group, masked)
        return loss

    def _step_free(self, group: dict[str, Any], params: list[Tensor]) -> None:
        momentum = group["momentum"]
        buffers: list[Tensor | None] = [self._state[p].get(_KEY) for p in params] if momentum else []
        foreach = group["foreach"]
        if foreach is None and not group["fused"] and self._masked:
            foreach = (
                True  # the same bits; what has no mask is many small tensors: 0.6 ms for 2.0 on ResNet-56, one core
            )
        gradients, moved = _gradients(params), params
        mastered = [p for p in params if self._masters.serve(p)]
        if mastered:
            moved, gradients, buffers = self._masters.widen(params, gradients, buffers, self._state)
        sgd(
            moved,
            gradients,
            buffers,
            foreach=foreach,
            fused=group["fused"],
            weight_decay=group["weight_decay"],
            momentum=momentum,
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=False,
        )
        if momentum:
            for parameter, buffer in zip(params, buffers, strict=True):
                self._state[parameter][_KEY] = buffer
        if mastered:
            torch._foreach_copy_(mastered, [self._state[p][_MASTER] for p in mastered])
            self._masters.rounded(mastered)

    def _step_masked(self, group: dict[str, Any], masked: list[MaskedWeight]) -> None:
        momentum = group["momentum"]
        sweep = self._steps % self.SWEEP == 0
        dense: dict[tuple[str, bool], list[MaskedWeight]] = {}
        listed: dict[str, list[MaskedWeight]] = {}
        for kept in masked:
            if kept.parameter.grad is None:
                self._hold(kept)
            elif (
                not sweep and kept.listed and not self._masters.serve(kept.parameter) and self._gathered(kept, momentum)
            ):
                listed.setdefault(kept.kind, []).append(kept)
            else:
                first = self._drawn(kept, momentum)
                dense.setdefault((kept.kind, first), []).append(kept)
        rule = {
            "lr": group["lr"], "momentum": momentum, "dampening": group["dampening"],
            "weight_decay": float(group["weight_decay"]), "nesterov": group["nesterov"],
        }  # fmt: skip
        for (_, first), some in dense.items():
            params = [kept.parameter for kept in some]
            gradients = [kept.own(grad) for kept, grad in zip(some, _gradients(params), strict=True)]
            momenta = [kept.own(kept.buffer) for kept in some if kept.buffer is not None] if momentum else []
            mastered = [p for p in params if self._masters.serve(p)]  # all or none: those of one call have one dtype
            masters = [self._masters.of(p, self._state[p]) for p in mastered]
            given = [kept.given for kept in some]
            written = [kept.own(kept.parameter) for kept in some]
            ops.masked_sgd_(written, gradients, momenta, given, first=first, masters=masters, **rule)
            self._masters.rounded(mastered)
        for some in listed.values():
            params = [kept.parameter for kept in some]
            momenta = [kept.momenta for kept in some if kept.momenta is not None]
            ops.indexed_sgd_(params, _gradients(params), momenta, [kept.places for kept in some], **rule)
        for kept in masked:
            kept.written = kept.parameter._version

    def _hold(self, kept: MaskedWeight) -> None:
        """Writes +0 to what is pruned of a weight that has no gradient."""
        if kept.momenta is not None:
            self._state[kept.parameter][_KEY] = kept.scatter()
        zero_pruned(kept.parameter, self._state.get(kept.parameter, {}), kept.mask)

    def _gathered(self, kept: MaskedWeight, momentum: float) -> bool:
        """Returns whether the survivors' momenta lie side by side, where there are any to be had, after moving them there."""
        if momentum and kept.momenta is None and (buffer := self._state[kept.parameter].pop(_KEY, None)) is not None:
            kept.gather(buffer)
            kept.buffer = None
        return bool(momentum) == (kept.momenta is not None)

    def _drawn(self, kept: MaskedWeight, momentum: float) -> bool:
        """Returns whether the weight had no momentum yet; leaves it with a momentum buffer, and its mask read."""
        if kept.momenta is not None:
            self._state[kept.parameter][_KEY] = kept.scatter()
        kept.draw()
        if not momentum or kept.buffer is not None:
            return False
        state = self._state[kept.parameter]
        buffer = state.get(_KEY)
        if buffer is None:
            state[_KEY] = torch.zeros_like(kept.parameter, dtype=kept.wide)
        elif buffer.dtype is not kept.wide:
            state[_KEY] = buffer.to(kept.wide)
        kept.buffer = state[_KEY]
        return buffer is None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` returned; float32 momenta and masters are not rounded to 16 bits as torch would.

        Without `masters` those in the state dict are left out.
        """
        super().load_state_dict(state_dict)
        self._warn_unmasked()
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        params = [parameter for group in self.param_groups for parameter in group["params"]]
        for name, parameter in zip(names, params, strict=True):
            saved = state_dict["state"].get(name, {})
            if self._masters.serve(parameter) and _MASTER in saved:
                self.state[parameter][_MASTER] = saved[_MASTER].to(parameter.device, torch.float32, copy=True)
            elif _MASTER in saved:
                del self.state[parameter][_MASTER]
            buffer = saved.get(_KEY)
            if buffer is not None and (parameter in self._masked or buffer.dtype != parameter.dtype):
                self.state[parameter][_KEY] = buffer.to(parameter.device, copy=True)
            if parameter in self._masked:
                zero_pruned(parameter, self.state.get(parameter, {}), self._masked[parameter].mask)

    def _warn_unmasked(self) -> None:
        """Warns where no mask is set, but weights and momenta that were loaded are 0 together, as under masks."""
        if self._masked:
            return
        zeros = total = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                buffer = self._state.get(parameter, {}).get(_KEY)
                if parameter.ndim > 1 and buffer is not None:
                    zeros += int(((local(parameter) == 0) & (local(buffer) == 0)).sum())
                    total += local(parameter).numel()
        if zeros > TELLING * total > 0:
            text = f"{zeros:,} of {total:,} weights and their momenta are 0, as if pruned, and no masks are set"
            warnings.warn(
                f"{text}: they move from the next step on, unless set_masks(model, masks) is called", stacklevel=3
            )

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        masks = {parameter: kept.mask for parameter, kept in self._masked.items()}
        return {**state, "_masks": masks, "_masters": self._masters.on}

    def __setstate__(self, state: dict[str, Any]) -> None:
        rest = {key: value for key, value in state.items() if key not in ("state", "_masks", "_masters")}
        if "_masks" in state:  # a copy, made without __init__
            self._masked = {parameter: MaskedWeight(parameter, mask) for parameter, mask in state["_masks"].items()}
            self._members, self._steps, self._masters = [], 0, Masters(state.get("_masters", False))
        self.state = state["state"]
        super().__setstate__(rest)


def _gradients(params: Iterable[Tensor]) -> list[Tensor]:
    gradients = [p.grad for p in params if p.grad is not None]
    if any(grad.layout is not torch.strided for grad in gradients):
        raise PlanError("MaskedSGD takes no sparse gradients: build the embedding with sparse=False")
    return gradients
