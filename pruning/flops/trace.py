"""A forward pass followed: which weights are used at how many positions, and what other arithmetic there is.

Weights are known by their memory in what torch's dispatcher is asked to multiply, so that it does not matter by what
module or function they get there. The model is left as it was.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pruning.flops import products
from pruning.layers import WEIGHTED
from pruning.masks import DTYPES, weight_keys
from pruning.plan import PlanError

Handle = Callable[[tuple[Any, ...], Any], int]  # (arguments, output) of an operation -> its MACs


class Trace(TorchDispatchMode):
    """What a forward pass does: which weights are used at how many positions, and what else is arithmetic."""

    def __init__(self, model: nn.Module, convention: str, handles: Mapping[str, Handle] | None = None) -> None:
        super().__init__()
        self.convention = convention
        self.handles = handles or {}
        self.modules = dict(model.named_modules())
        self.running: list[str] = []  # the names of the modules whose forward is running, outermost first
        self.called: Counter[str] = Counter()
        self.other: dict[str, set[str]] = defaultdict(set)  # module name -> its arithmetic that no layer's weight is in
        self.layers: dict[str, list[nn.Parameter]] = {}  # layer name -> its weights; a shared one is the first layer's
        self.memory: dict[int, list[tuple[str, nn.Parameter]]] = defaultdict(list)  # by address of the storage
        # weights in another dtype, by address of the storage; held, so that nothing else gets its address
        self.copies: dict[int, tuple[str, nn.Parameter, Tensor]] = {}
        self.used: dict[tuple[Any, ...], tuple[str, Tensor, nn.Parameter | None]] = {}
        self.positions: Counter[tuple[Any, ...]] = Counter()
        self.products: Counter[tuple[str, str]] = Counter()  # (module, operation) -> MACs between activations
        # module with a parameter of no layer -> what that was used in, but for products
        self.touched: dict[str, set[str]] = defaultdict(set)
        seen: set[nn.Parameter] = set()
        for name, module in self.modules.items():
            own = [w for key in weight_keys(module) if (w := module._parameters.get(key)) is not None]
            new = [w for w in own if w not in seen]
            if new or (isinstance(module, (*WEIGHTED, nn.MultiheadAttention)) and not own):
                self.layers[name] = new
            for weight in (w for w in new if w.dtype in DTYPES):
                self.memory[weight.untyped_storage().data_ptr()].append((name, weight))
            seen.update(new)
        # parameters of two or more dimensions that no layer has -> their modules
        self.loose: dict[nn.Parameter, str] = {}
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and parameter not in seen and parameter.dtype in DTYPES:
                self.loose[parameter] = name.rpartition(".")[0]
                self.memory[parameter.untyped_storage().data_ptr()].append((self.loose[parameter], parameter))

    def use(self, name: str, tensor: Tensor, weight: nn.Parameter | None, positions: int) -> None:
        """Notes that the tensor, which is `weight`, a view of it or computed, is used at so many positions."""
        if weight is not None and weight in self.loose:
            own = self.layers.setdefault(name, [])
            if all(weight is not other for other in own):
                own.append(weight)
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
        handle = self.handles.get(func._schema.name)
        named = space == "aten" and (
            name in products.PRODUCTS or name in products.GROUPED or name.startswith(products.ATTENTION)
        )
        if not named and handle is None:
            with self:  # what a composite op is made of; elsewhere it is decomposed before it gets here
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if handle is not None:
            self._add(name, self._asked(func._schema.name, handle, args, out))
        elif isinstance(self.modules[self._inside()], nn.RNNBase):
            pass  # counted as a whole
        elif space == "aten" and name in products.PRODUCTS:
            self._product(name, *products.product(name, args, out))
        elif space == "aten" and name in products.GROUPED:
            for operand, macs in products.groups(args, kwargs):
                self._product(name, [operand], macs)
        elif space == "aten" and name.startswith(products.ATTENTION) and "backward" not in name:
            self._add(name, products.attention(name, args))
        elif space == "aten" and name in products.DISTANCES:
            self._add(name, products.distances(name, args))
        elif space not in ("aten", "prim", "prims", "profiler") or name.startswith(products.ARITHMETIC):
            self.other[self._inside()].add(name.strip("_"))
        elif name == "_to_copy" and isinstance(out, Tensor) and (known := self._known(args[0])) is not None:
            if args[0].numel() == known[1].numel() and out.stride() == args[0].stride():
                self.copies[out.untyped_storage().data_ptr()] = (*known, out)
        elif name not in products.VIEWS:
            self._touch(name, args)
        return out

    def _product(self, op: str, operands: list[Tensor], macs: int) -> None:
        uses: list[tuple[Tensor, str, nn.Parameter | None]]
        uses = [(tensor, *found) for tensor in operands if (found := self._known(tensor)) is not None]
        if not uses:
            uses = [(tensor, name, None) for tensor in operands if (name := self._computed(tensor)) is not None]
        for tensor, layer, weight in uses:
            if tensor.numel() and tensor.dtype in DTYPES:
                if self.convention != "shrinkbench":
                    self.use(layer, tensor, weight, macs // tensor.numel())
                elif not isinstance(self.modules[layer], nn.Conv2d | nn.Linear):
                    self.other[layer].add(op)
                return
        own = self.modules[self._inside()]._parameters.get("weight")
        if own is not None and own.dtype not in DTYPES:  # complex: real products of it are another count
            self.other[self._inside()].add(op.strip("_"))
        else:
            self._add(op, macs)

    def _add(self, name: str, macs: int) -> None:
        """Notes MACs that no weight is in."""
        if self.convention == "true":
            self.products[self._inside(), name.strip("_")] += macs
        else:
            self.other[self._inside()].add(name.strip("_"))

    def _asked(self, op: str, handle: Handle, args: tuple[Any, ...], out: Any) -> int:
        try:
            macs = handle(args, out)
        except Exception as error:  # it is the user's own, and may raise anything
            raise PlanError(f"the handle of '{op}' fails: {type(error).__name__}: {error}") from error
        if isinstance(macs, bool) or not isinstance(macs, int) or macs < 0:
            raise PlanError(f"the handle of '{op}' must return its MACs, a whole number from 0, not {macs!r}")
        return macs

    def _touch(self, name: str, args: tuple[Any, ...]) -> None:
        for tensor in args:
            if isinstance(tensor, Tensor) and tensor.dim() > 1 and tensor.layout is torch.strided:
                for _, parameter in self.memory.get(tensor.untyped_storage().data_ptr(), ()):
                    if parameter in self.loose:
                        self.touched[self.loose[parameter]].add(name)

    def _recurrent(self, name: str, module: nn.RNNBase, x: Any) -> None:
        """Notes each matrix of a recurrent layer as used once for every step: 4 h (i + h) MACs a step of an LSTM."""
        if self.convention == "shrinkbench":
            self.other[name].add("rnn")
            return
        rows = x.data.shape[0] if isinstance(x, nn.utils.rnn.PackedSequence) else x.numel() // x.shape[-1]
        for key in weight_keys(module):
            self.use(name, getattr(module, key).detach(), module._parameters.get(key), rows)

    def _known(self, tensor: Any) -> tuple[str, nn.Parameter] | None:
        """Returns the layer and its weight that the tensor is, or is a part of, or is a copy of in another dtype."""
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            return None
        place = tensor.untyped_storage().data_ptr()
        if place in self.copies:
            name, weight, _ = self.copies[place]
            return name, weight
        for name, weight in self.memory.get(place, ()):
            start = int(weight.storage_offset())
            if start <= tensor.storage_offset() < start + weight.numel():
                return name, weight
        return None

    def _computed(self, tensor: Tensor) -> str | None:
        """Returns the layer inside of which the tensor is computed, of the size of its weight."""
        name = self._inside()
        module: Any = self.modules[name]
        own: Any = module._parameters.get("weight", tensor)
        if not isinstance(module, WEIGHTED) or own.dtype not in DTYPES:
            return None
        if isinstance(module, nn.Linear):
            size = module.in_features * module.out_features
        else:
            size = module.out_channels * (module.in_channels // module.groups) * math.prod(module.kernel_size)
        return name if tensor.numel() == size else None

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
                if isinstance(module, nn.RNNBase):
                    self._recurrent(name, module, kwargs["input"] if "input" in kwargs else args[0])
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
