"""A forward pass followed: which weights are used at how many positions, and what other arithmetic there is.

Weights are known by their memory in what torch's dispatcher is asked to multiply, so that it does not matter by what
module or function they get there. The model is left as it was.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pruning.layers import WEIGHTED
from pruning.masks import DTYPES, weight_keys
from pruning.plan import PlanError

_PRODUCTS = ("convolution", "mm", "bmm", "mv", "addmm", "baddbmm", "addmv")
_ARITHMETIC = (
    "_scaled_dot_product",
    "_flash",
    "_efficient",
    "addbmm",
    "dot",
    "vdot",
    "_trilinear",
    "_fft",
    "mkldnn_rnn",
)


class Trace(TorchDispatchMode):
    """What a forward pass does: which weights are used at how many positions, and what else is arithmetic."""

    def __init__(self, model: nn.Module, convention: str) -> None:
        super().__init__()
        self.convention = convention
        self.modules = dict(model.named_modules())
        self.running: list[str] = []  # the names of the modules whose forward is running, outermost first
        self.called: Counter[str] = Counter()
        self.other: dict[str, set[str]] = defaultdict(set)  # module name -> its arithmetic that no layer's weight is in
        self.layers: dict[str, list[nn.Parameter]] = {}  # layer name -> its weights; a shared one is the first layer's
        self.memory: dict[int, list[tuple[str, nn.Parameter]]] = defaultdict(list)  # by address of the storage
        self.used: dict[tuple[Any, ...], tuple[str, Tensor, nn.Parameter | None]] = {}
        self.positions: Counter[tuple[Any, ...]] = Counter()
        seen: set[nn.Parameter] = set()
        for name, module in self.modules.items():
            own = [w for key in weight_keys(module) if (w := module._parameters.get(key)) is not None]
            new = [w for w in own if w not in seen]
            if new or (isinstance(module, (*WEIGHTED, nn.MultiheadAttention)) and not own):
                self.layers[name] = new
            for weight in (w for w in new if w.dtype in DTYPES):
                self.memory[weight.untyped_storage().data_ptr()].append((name, weight))
            seen.update(new)

    def use(self, name: str, tensor: Tensor, weight: nn.Parameter | None, positions: int) -> None:
        """Notes that the tensor, which is `weight`, a view of it or computed, is used at so many positions."""
        if weight is not None and tensor.numel() == weight.numel():
            tensor = weight.detach()
        key = (name, tensor.data_ptr(), tensor.shape, tensor.stride())
        self.used[key] = (name, tensor, weight)
        self.positions[key] += positions

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return (
            False  # or torch imports its compiler, 1.4 s, to keep it away from a mode under which nothing is compiled
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        space, _, name = func._schema.name.partition("::")
        name = name.rstrip("_")
        counted = space == "aten" and name in _PRODUCTS
        if not counted:
            with self:  # what a composite op is made of; elsewhere it is decomposed before it gets here
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if counted:
            self._product(name, args, out)
        elif space not in ("aten", "prim", "prims", "profiler") or name.startswith(_ARITHMETIC):
            self.other[self._inside()].add(name.strip("_"))
        return out

    def _product(self, name: str, args: tuple[Any, ...], out: Tensor) -> None:
        if name == "convolution":  # input, weight, bias, stride, padding, dilation, transposed ...
            operands = [args[1]]
            macs = args[1].numel() * ((args[0] if args[6] else out).numel() // max(args[1].shape[0], 1))
        else:
            operands = list(args[1:3] if name.startswith(("add", "badd")) else args[:2])
            macs = out.numel() * operands[0].shape[-1]
        for tensor in operands:
            layer, weight = self._find(tensor)
            if layer is not None and tensor.numel() and tensor.dtype in DTYPES:
                if self.convention == "true":
                    self.use(layer, tensor, weight, macs // tensor.numel())
                elif self.convention == "shrinkbench" and not isinstance(self.modules[layer], nn.Conv2d | nn.Linear):
                    self.other[layer].add(name)
                return
        self.other[self._inside()].add(name)

    def _find(self, tensor: Tensor) -> tuple[str | None, nn.Parameter | None]:
        """Returns the layer whose weight the tensor is, or is a part of, or is computed from inside of that layer."""
        for name, weight in self.memory.get(tensor.untyped_storage().data_ptr(), ()):
            start = int(weight.storage_offset())
            if start <= tensor.storage_offset() < start + weight.numel():
                return name, weight
        name = self._inside()
        module: Any = self.modules[name]
        own: Any = module._parameters.get("weight", tensor)
        if not isinstance(module, WEIGHTED) or own.dtype not in DTYPES:
            return None, None
        if isinstance(module, nn.Linear):
            size = module.in_features * module.out_features
        else:
            size = module.out_channels * (module.in_channels // module.groups) * math.prod(module.kernel_size)
        return (name if tensor.numel() == size else None), None

    def _inside(self) -> str:
        return self.running[-1] if self.running else ""

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follows which module is running, by hooks that are gone afterwards."""
        handles = []

        def enter(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
                self.running.append(name)
                self.called[name] += 1
                if self.convention == "shrinkbench" and isinstance(module, nn.Conv2d | nn.Linear):
                    self._shrinkbench(name, module, kwargs["input"] if "input" in kwargs else args[0])

            return hook

        def leave(module: nn.Module, args: Any, out: Any) -> None:
            self.running.pop()

        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
                handles.append(module.register_forward_hook(leave, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _shrinkbench(self, name: str, module: nn.Conv2d | nn.Linear, x: Tensor) -> None:
        if self.called[name] > 1:
            raise PlanError(f"convention 'shrinkbench' does not count '{name}': it is called more than once")
        positions = 1
        if isinstance(module, nn.Conv2d):
            if any(d != 1 for d in module.dilation):
                raise PlanError(f"convention 'shrinkbench' does not count '{name}': its dilation is {module.dilation}")
            positions = module.groups * math.prod(
                -(-size // stride) for size, stride in zip(x.shape[-2:], module.stride, strict=True)
            )
        weight = module._parameters.get("weight")
        self.use(name, module.weight.detach(), weight, positions)


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
