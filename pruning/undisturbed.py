"""A model that is run to look at it, and is afterwards as it was."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts the model into eval mode; afterwards modes, buffers, random numbers and torch's settings are as before."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = [(b, b._version, b.clone()) for b in model.buffers()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    fast = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        if "torch._dynamo.eval_frame" in sys.modules:  # compiled modules, if any, run uncompiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # it calls no submodule and one opaque op
            for module, _ in modes:
                module.training = False
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, training in modes:
                module.training = training
            for module, own in buffers:
                module._buffers.clear()
                module._buffers.update(own)
            with torch.no_grad():
                for buffer, version, value in values:
                    if buffer._version != version:
                        buffer.copy_(value)
