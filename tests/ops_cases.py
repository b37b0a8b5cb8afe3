"""Random cases of the ops, small and nasty: what every kernel is compared with its reference on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from pruning import ops

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LEVELS = torch.tensor([-2.0, -1.0, -0.0, 0.0, 1.0, 1e-42, math.nan, math.inf, -math.inf])
topk_reference = import_module("pruning.ops.topk_masks")._reference
sgd_reference = import_module("pruning.ops.masked_sgd")._reference
indexed_reference = import_module("pruning.ops.indexed_sgd")._reference
nnz_reference = import_module("pruning.ops.nnz")._reference


class Dice:
    """A seeded source of choices."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def number(self, low: int, high: int) -> int:
        """Returns an integer from `low` to `high`, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def one(self, *choices: Any) -> Any:
        return choices[self.number(0, len(choices) - 1)]

    def values(self, shape: tuple[int, ...], kind: str) -> Tensor:
        if kind == "levels":
            return LEVELS[torch.randint(0, len(LEVELS), shape, generator=self.generator)]
        if kind == "equal":
            return torch.full(shape, 0.1)
        x = torch.randn(shape, generator=self.generator)
        if kind == "denormal":
            return x * 1e-40
        return x.masked_fill(self.mask(shape, 0.8), 0.0) if kind == "zeros" else x

    def mask(self, shape: tuple[int, ...], density: float) -> Tensor:
        return torch.rand(shape, generator=self.generator) < density

    def strided(self, x: Tensor) -> Tensor:
        """Returns the same values, often in another memory layout, sometimes a view with gaps."""
        layout = self.number(0, 5)
        if layout == 0:
            return x.movedim(0, -1).contiguous().movedim(-1, 0)
        if layout == 1:
            return (
                torch.stack([x, x + 1], dim=-1)[..., 0] if x.dtype != torch.bool else torch.stack([x, ~x], -1)[..., 0]
            )
        return x


@dataclass
class TopK:
    """Arguments of topk_masks."""

    tensors: list[Tensor]
    keep: list[int]
    magnitude: bool
    alive: list[Tensor] = field(default_factory=list)

    @classmethod
    def draw(cls, seed: int, size: int = 8) -> TopK:
        dice = Dice(seed)
        kind = dice.one("normal", "levels", "equal", "denormal", "zeros")
        dtype, mixed = dice.one(*DTYPES), dice.number(0, 7) == 0
        shapes = [(dice.number(0, size), dice.number(1, size), dice.number(1, 3)) for _ in range(dice.number(0, 4))]
        tensors = [dice.strided(dice.values(s, kind).to(dice.one(*DTYPES) if mixed else dtype)) for s in shapes]
        alive = [dice.strided(dice.mask(s, 0.6)) for s in shapes] if dice.number(0, 2) == 0 else []
        total = sum(t.numel() for t in tensors)
        keep = [dice.one(0, min(1, total), max(total - 1, 0), total, dice.number(0, total), dice.number(0, total))]
        if tensors and dice.number(0, 2) == 0:
            keep = [dice.number(0, t.numel()) for t in tensors]
        return cls(tensors, keep, bool(dice.number(0, 1)), alive)

    def run(self, function: Any, device: str = "cpu") -> tuple[list[Tensor], Tensor]:
        """Returns the masks and counts that `function` gives on that device, on the CPU."""
        out = [torch.ones_like(t, dtype=torch.bool, device=device) for t in self.tensors]
        alive = [a.to(device) for a in self.alive]
        counts = function([t.to(device) for t in self.tensors], self.keep, self.magnitude, alive, out)
        return [m.cpu() for m in out], counts.cpu()

    def check(self, device: str = "cpu") -> None:
        """Asserts that the op on that device gives what the reference gives on the CPU."""
        masks, counts = self.run(torch.ops.prune.topk_masks, device)
        expected, expected_counts = self.run(topk_reference)
        assert all(torch.equal(a, b) for a, b in zip(masks, expected, strict=True))
        assert torch.equal(counts, expected_counts)


@dataclass
class Update:
    """Arguments of masked_sgd_, with what it writes kept apart from what it reads."""

    params: list[Tensor]
    grads: list[Tensor]
    momenta: list[Tensor]
    masks: list[Tensor]  # bool, whatever the op is given
    given: list[Tensor]
    masters: list[Tensor]
    lr: float | Tensor
    settings: dict[str, Any]

    @classmethod
    def draw(cls, seed: int, size: int = 12) -> Update:
        dice = Dice(seed)
        dtype = dice.one(*DTYPES)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        shapes = [(dice.number(0, size), dice.number(1, size)) for _ in range(dice.number(1, 4))]
        density = dice.one(1.0, 0.5, 0.1, 0.03, 0.0)
        momentum = dice.one(0.0, 0.9)
        nesterov = bool(momentum) and dice.number(0, 1) == 0
        masks = [dice.strided(dice.mask(s, density)) for s in shapes]

        def drawn(kind: torch.dtype) -> list[Tensor]:
            tensors = [dice.strided(dice.values(s, "normal").to(kind)) for s in shapes]
            for t, mask in zip(tensors, masks, strict=True):
                if t.numel():
                    t.masked_fill_(~mask & dice.mask(t.shape, 0.2), dice.one(math.nan, -math.inf, -0.0))
            return tensors

        return cls(
            params=drawn(dtype),
            grads=drawn(dtype),
            momenta=drawn(wide) if momentum else [],
            masks=masks,
            given=[ops.pack(m) if dice.number(0, 2) == 0 else m for m in masks],
            masters=drawn(torch.float32) if dtype.itemsize == 2 and dice.number(0, 1) else [],
            lr=dice.one(0.1, torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64)),
            settings={
                "momentum": momentum,
                "dampening": 0.0 if nesterov else dice.one(0.0, 0.3),
                "weight_decay": dice.one(0.0, 0.1),
                "nesterov": nesterov,
                "first": dice.number(0, 1) == 0,
            },
        )

    def run(self, function: Any, device: str = "cpu") -> list[Tensor]:
        """Returns parameters, momenta and masters as `function` leaves them on that device, on the CPU."""
        written = [[_to(t, device) for t in ts] for ts in (self.params, self.momenta, self.masters)]
        grads, given = [_to(g, device) for g in self.grads], [m.to(device) for m in self.given]
        rate = (0.0, self.lr.to(device)) if isinstance(self.lr, Tensor) else (self.lr, None)
        function(written[0], grads, written[1], given, written[2], *rate, *self.settings.values())
        assert all(torch.equal(a.cpu().nan_to_num(), b.nan_to_num()) for a, b in zip(grads, self.grads, strict=True))
        return [t.cpu() for ts in written for t in ts]

    def check(self, device: str = "cpu") -> None:
        """Asserts that the op agrees with the reference to rounding and leaves exactly +0 where a mask is False."""
        got, expected = self.run(torch.ops.prune.masked_sgd_, device), self.run(sgd_reference)
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            mask = self.masks[i % len(self.masks)]
            rtol = TOLERANCES[a.dtype]
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, equal_nan=True)
            assert torch.equal(a[~mask], torch.zeros_like(a[~mask]))
            assert not a[~mask].signbit().any()

    def check_listed(self, device: str = "cpu") -> None:
        """Asserts that indexed_sgd_ agrees with its reference, leaves what is not listed alone, and on the CPU gives to the
        bit what masked_sgd_ gives to survivors."""
        places = [m.flatten().nonzero().flatten() for m in self.masks]
        lists = [at.int() if i % 2 else at for i, at in enumerate(places)]
        momenta = [m.flatten()[at] for m, at in zip(self.momenta, places, strict=False)]

        def run(function: Any, device: str) -> list[Tensor]:
            written = [[_to(t, device) for t in ts] for ts in (self.params, momenta)]
            rate = (0.0, self.lr.to(device)) if isinstance(self.lr, Tensor) else (self.lr, None)
            grads, given = [_to(g, device) for g in self.grads], [at.to(device) for at in lists]
            function(written[0], grads, written[1], given, *rate, *self.settings.values())
            return [t.cpu() for ts in written for t in ts]

        got, expected = run(torch.ops.prune.indexed_sgd_, device), run(indexed_reference, "cpu")
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=TOLERANCES[a.dtype], atol=TOLERANCES[a.dtype], equal_nan=True)
        for a, before, mask in zip(got, self.params, self.masks, strict=False):
            assert torch.equal(a[~mask].nan_to_num(7.0), before[~mask].nan_to_num(7.0))
        if device == "cpu" and not self.masters:
            dense = self.run(torch.ops.prune.masked_sgd_)
            n = len(self.params)
            for i, (mask, at) in enumerate(zip(self.masks, places, strict=True)):
                assert torch.equal(got[i][mask], dense[i][mask])
                assert not momenta or torch.equal(got[n + i], dense[n + i].flatten()[at])


TOLERANCES = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def _to(t: Tensor, device: str) -> Tensor:
    """Returns a copy on that device in the same memory layout; views with gaps become views with gaps."""
    if t.numel() and t.stride(-1) == 2 and t.dim() > 1:
        return torch.stack([t, t], dim=-1).to(device)[..., 0]
    return t.clone(memory_format=torch.preserve_format).to(device)
