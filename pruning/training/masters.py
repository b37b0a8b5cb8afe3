"""Float32 masters of 16-bit parameters: what an update adds up, while the network computes with their rounding.

A bfloat16 weight has 8 significant bits, so that an update below 1/512 of it is rounded away (float16: 1/4096); its
master keeps it. (Micikevicius et al., "Mixed Precision Training", 2018, section 3.1.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pruning.plan import PlanError

KEY = "master"  # in the optimizer's state of a parameter

_SERVED = (torch.bfloat16, torch.float16)


class Masters:
    """Which parameters have masters, and which of their weights somebody else may have written to since the last step."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self._written: dict[Tensor, int] = {}  # the parameter's version after its master's last rounding

    def serve(self, parameter: Tensor) -> bool:
        """Returns whether the parameter has a master: it is bfloat16 or float16, and masters were asked for."""
        return self.on and parameter.dtype in _SERVED

    @torch.no_grad()
    def of(self, parameter: Tensor, state: dict[str, Any]) -> Tensor:
        """Returns the parameter's master in its state, made there if need be: float32, of its shape.

        Where the parameter was written to since the last step, or the state came from elsewhere, every entry that is
        no longer its master's rounding is read again from the parameter; the others keep what rounding drops.
        """
        master = state.get(KEY)
        if master is None:
            state[KEY] = master = parameter.detach().float()
        elif master.dtype is not torch.float32 or master.shape != parameter.shape or master.device != parameter.device:
            raise PlanError(
                f"the master of a parameter of shape {tuple(parameter.shape)} on {parameter.device} has shape "
                f"{tuple(master.shape)}, is {str(master.dtype).removeprefix('torch.')} and on {master.device}; "
                "allowed is float32 of the parameter's shape on its device"
            )
        elif self._written.get(parameter) != parameter._version:
            master.copy_(master.where(master.to(parameter.dtype) == parameter, parameter.float()))
        return master

    def widen(
        self, parameters: list[Tensor], gradients: list[Tensor], buffers: list[Tensor | None], state: dict[Tensor, Any]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
        """Returns what torch's SGD updates: masters, float32 gradients and momenta for parameters that have a master.

        Parameters without one stay as they are. `buffers` is empty where there is no momentum.
        """
        moved = [self.of(p, state[p]) if self.serve(p) else p for p in parameters]
        wide = [grad.to(target.dtype) for grad, target in zip(gradients, moved, strict=True)]
        momenta = [
            buffer if buffer is None or not self.serve(p) else buffer.float()
            for buffer, p in zip(buffers, parameters, strict=False)
        ]
        return moved, wide, momenta

    def rounded(self, parameters: Iterable[Tensor]) -> None:
        """Takes note that these parameters are the rounding of their masters now."""
        for parameter in parameters:
            self._written[parameter] = parameter._version

    def forget(self) -> None:
        """Compares every parameter with its master at the next step: one of them may be another now."""
        self._written.clear()
