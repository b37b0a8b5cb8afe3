"""Seeds and generators derived by name, so that every purpose has a stream of its own and none depends on another's use."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: object) -> int:
    """Returns a seed in [0, 2^63) that depends on `seed` and the names alone: derive(0, "order", epoch)."""
    text = "\0".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a fresh generator on `device`, seeded by :func:`derive`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *names))
