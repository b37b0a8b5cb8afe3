"""Names of tensors that fit in spite of what wraps a model or a part of it.

DistributedDataParallel and DataParallel put `module.` before a name, torch.compile `_orig_mod.`, peft `base_model.model.` and,
inside, `base_layer.`; checkpoint wrappers and the first FSDP have their own. Masks drawn before wrapping fit afterwards, and
the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pruning.masks.shards import local
from pruning.plan import PlanError

WRAPPERS = ("module", "_orig_mod", "base_layer", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_PEFT = ("base_model", "model")


def plain(name: str) -> str:
    """Returns the name without the pieces that wrappers add, wherever they stand; the last piece always stays."""
    pieces, out = name.split("."), list[str]()
    i = 0
    while i < len(pieces) - 1:
        if tuple(pieces[i : i + 2]) == _PEFT and i + 2 < len(pieces):
            i += 2
        else:
            out += [] if pieces[i] in WRAPPERS else [pieces[i]]
            i += 1
    return ".".join([*out, *pieces[i:]])


class Names:
    """The tensors of a model or a state dict, to be found by names from before or after wrapping."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._prefix = _shared_prefix(tensors)
        self._plain: dict[str, list[str]] = {}
        for name in tensors:
            self._plain.setdefault(plain(name), []).append(name)

    def find(self, name: str) -> str | None:
        """Returns the name that the tensor has here, None where there is none; raises PlanError where it may be either of two.

        First comes the name itself, or behind the wrapper around the whole model; then one that differs by wrappers alone.
        """
        found = [n for n in dict.fromkeys((name, self._prefix + name)) if n in self._tensors]
        found = found or self._plain.get(plain(name), [])
        for other in found[1:]:
            if not _one(self._tensors[found[0]], self._tensors[other]):
                raise PlanError(f"the mask of '{name}' may be meant for '{found[0]}' or for '{other}': rename it")
        return found[0] if found else None


def _shared_prefix(names: Mapping[str, Tensor]) -> str:
    """Returns what wrappers of the whole model put before every name, as "module._orig_mod."; "" where nothing is."""
    prefix = ""
    while names:
        rest = next(iter(names)).removeprefix(prefix)
        piece = next((p for p in ("base_model.model.", *(f"{w}." for w in WRAPPERS)) if rest.startswith(p)), None)
        if piece is None or not all(name.startswith(prefix + piece) for name in names):
            break
        prefix += piece
    return prefix


def _one(a: Tensor, b: Tensor) -> bool:
    a, b = local(a), local(b)
    return a is b or (a.shape == b.shape and a.numel() > 0 and a.data_ptr() == b.data_ptr() != 0)
