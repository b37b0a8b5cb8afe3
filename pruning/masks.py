"""Which weights can be pruned, and which of them are: masks by parameter name, applied, counted, checked, saved.

Prunable are the weights of every convolution (also transposed) and linear layer, first and last included, and the
projections inside `nn.MultiheadAttention`. Biases, normalization and embeddings are not, nor is a linear layer's weight
that is tied to an embedding, nor recurrent layers. A shared parameter counts once, under its first name.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruning import ops, runs
from pruning.plan import SCHEMA, PlanError, suggest

LAYERS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")


def prunable(model: nn.Module, exclude: Iterable[str] = ()) -> dict[str, nn.Parameter]:
    """Returns {name: parameter} of the prunable weights in the order in which the network registers them.

    `exclude` holds patterns (`*`, `?`, `[...]`) of parameters (`fc.weight`) or modules (`fc`, `layer1`), whose weights
    are left out. Raises PlanError for a pattern that fits nothing, for a weight that cannot be pruned (not initialized,
    parametrized, quantized, complex ...) and is not excluded, and where no weight is left.
    """
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    left_out = {id(w) for m in embeddings if (w := m._parameters.get("weight")) is not None}
    wanted: dict[int, tuple[str, nn.Module, Tensor | None]] = {}  # by id of the parameter
    names: list[str] = []  # every name that a pattern may mean, for the nearest one
    used: set[str] = set()
    excluded: set[int] = set()
    for path, module in model.named_modules():
        for key in _weight_keys(module):
            name = f"{path}.{key}" if path else key
            weight = module._parameters.get(key)
            if id(weight) in left_out:
                continue
            names += [name, path]
            fits = {p for p in patterns if any(fnmatch.fnmatchcase(n, p) for n in _with_parents(name))}
            used |= fits
            if not fits:
                wanted.setdefault(id(weight) if weight is not None else id(module), (name, module, weight))
            elif weight is not None:
                excluded.add(id(weight))  # a shared weight that is excluded under one of its names is so under all
    for pattern in patterns:
        if pattern not in used:
            raise PlanError(f"exclude '{pattern}' fits no prunable weight{suggest(pattern, names)}")
    for number, (name, module, weight) in wanted.items():
        if number not in excluded:
            _refuse(name, module, weight)
    out = {name: p for name, p in model.named_parameters() if id(p) in wanted.keys() - excluded}
    _refuse_aliases(out)
    if not out:
        why = "all are excluded" if patterns else "it has no convolution and no linear layer"
        raise PlanError(f"the model has no prunable weight: {why}")
    return out


def _weight_keys(module: nn.Module) -> list[str]:
    if isinstance(module, nn.MultiheadAttention):
        # an unused projection is registered as None; one that is not registered at all is parametrized
        return [key for key in _ATTENTION if module._parameters.get(key, module) is not None]
    quantized = type(module).__module__.startswith(_QUANTIZED) and hasattr(module, "weight")
    return ["weight"] if isinstance(module, LAYERS) or quantized else []


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]


def _refuse(name: str, module: nn.Module, weight: Tensor | None) -> None:
    """Raises PlanError where the weight cannot be pruned, with the reason and the way out."""
    kind = type(module).__name__
    if weight is None:
        if type(module).__module__.startswith(_QUANTIZED):
            reason = "is quantized: prune before quantizing"
        else:
            own = ", ".join(key for key, _ in module.named_parameters()) or "none"
            reason = f"is not a parameter itself but computed from others ({own}): remove the reparametrization first"
    elif is_lazy(weight):
        reason = "is not initialized: run one batch through the model first"
    elif weight.device.type == "meta":
        reason = "has no values (device 'meta')"
    elif weight.layout != torch.strided or type(weight.detach()) is not Tensor:
        reason = f"is no plain dense tensor but {type(weight.detach()).__name__}, {weight.layout}"
    elif weight.dtype not in _DTYPES:
        allowed = ", ".join(str(d).removeprefix("torch.") for d in _DTYPES)
        reason = f"has dtype {str(weight.dtype).removeprefix('torch.')}; allowed are {allowed}"
    else:
        return
    raise PlanError(f"'{name}' ({kind}) cannot be pruned: it {reason}, or exclude it")


def _refuse_aliases(weights: Mapping[str, Tensor]) -> None:
    at: dict[tuple[int, Any], str] = {}
    for name, weight in weights.items():
        key = (weight.untyped_storage().data_ptr(), weight.storage_offset())
        if weight.numel() and at.setdefault(key, name) != name:
            raise PlanError(f"'{name}' and '{at[key]}' share memory but are two parameters: make them one")


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
        kept = _counted(list(self._masks.values()))
        return {name: (k, mask.numel()) for (name, mask), k in zip(self._masks.items(), kept, strict=True)}

    @property
    def kept(self) -> int:
        """Returns how many weights are kept."""
        return sum(_counted(list(self._masks.values())))

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
            wrong = (value != 0) | value.signbit()
            if bool((wrong & ~mask.to(value.device)).any()):
                out.append(name)
        return out

    def to(self, device: torch.device | str) -> Masks:
        """Returns the masks on another device."""
        return Masks(
            {name: mask.to(device) for name, mask in self._masks.items()},
            {name: mask.to(device) for name, mask in self.extra.items()},
        )

    # --- files -------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, whole or not at all: one bit per weight as uint8, shapes and order as metadata."""
        packed = {name: ops.pack(mask.cpu()) for name, mask in self.everything().items()}
        layout = {
            "schema": SCHEMA,
            "shapes": {name: list(mask.shape) for name, mask in self.everything().items()},
            "extra": list(self.extra),
        }
        data = save(packed, {"masks": json.dumps(layout)})  # one key: several have no order that is the same every time
        with runs.replacing(Path(path)) as part:
            part.write_bytes(data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Masks:
        """Returns the masks of a file that :meth:`save` wrote; raises PlanError where that is absent or damaged."""
        path = Path(path)
        if not path.is_file():
            raise PlanError(f"{path} does not exist")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise PlanError(f"{path} is damaged: {error}") from None
        if "masks" not in metadata:
            raise PlanError(f"{path} holds no masks")
        masks, extra = _unpacked(path, metadata["masks"], packed)
        return cls({name: m for name, m in masks.items() if name not in extra}, {name: masks[name] for name in extra})


def _counted(masks: list[Tensor]) -> list[int]:
    by_device: dict[torch.device, list[int]] = {}
    for i, mask in enumerate(masks):
        by_device.setdefault(mask.device, []).append(i)
    counts = [0] * len(masks)
    for places in by_device.values():
        for i, count in zip(places, ops.nnz([masks[i] for i in places]).tolist(), strict=True):
            counts[i] = count
    return counts


def _unpacked(path: Path, text: str, packed: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns ({name: mask} in network order, names of the extra ones), every statement of the file checked."""
    layout = _json_object(path, text)
    if layout.get("schema") != SCHEMA:
        raise PlanError(f"{path} has schema {layout.get('schema')!r}; this version reads schema {SCHEMA}")
    shapes, extra = layout.get("shapes"), layout.get("extra")
    if not isinstance(shapes, dict) or not isinstance(extra, list) or not all(name in shapes for name in extra):
        raise PlanError(f"{path} is damaged: its list of shapes is not readable")
    if odd := shapes.keys() ^ packed.keys():
        raise PlanError(f"{path} is damaged: '{min(odd)}' has a shape without a mask, or a mask without a shape")
    out = {}
    for name, shape in shapes.items():
        bits = packed[name]
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise PlanError(f"{path} is damaged: '{name}' has shape {shape!r}")
        size = math.prod(shape)
        if bits.dtype != torch.uint8 or bits.shape != ((size + 7) // 8,):
            raise PlanError(f"{path} is damaged: '{name}' is {list(shape)} but holds {bits.numel()} bytes of masks")
        if size % 8 and int(bits[-1]) >> (size % 8):
            raise PlanError(f"{path} is damaged: '{name}' has bits set beyond its {size} weights")
        out[name] = ops.unpack(bits, shape)
    return out, extra


def _json_object(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise PlanError(f"{path} is damaged: its metadata is not readable")
    return value
