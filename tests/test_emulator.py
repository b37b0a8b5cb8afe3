"""The CUDA kernels' logic without a GPU: csrc/*.cu compiled for the CPU by tests/emulator, against the references."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from ops_cases import (
    DTYPES,
    TOLERANCES,
    Dice,
    TopK,
    Update,
    nnz_reference,
    sgd_reference,
    topk_reference,
)
from torch import Tensor

from pruning import ops

ROOT = Path(__file__).parents[1]
CXX = os.environ.get("CXX") or shutil.which("g++")
FLAGS = [
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
    "-ftrivial-auto-var-init=pattern",
    "-w",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
]
WATCHED = ["-fsanitize=alignment", "-fsanitize-coverage=trace-pc"]
SMALL = ["ONE_BLOCK=256", "WHOLE_SAMPLE=2048", "LEAST_SAMPLE=512", "MEMORY=65536"]  # the ways of large rankings, soon

pytestmark = pytest.mark.skipif(not CXX, reason="needs g++")


class Emulator:
    """The ops of one build, registered as torch.ops.<name>."""

    def __init__(self, name: str, folder: Path, sources: list[Path], macros: list[str]) -> None:
        from torch.utils import cpp_extension

        paths = [f"-I{p}" for p in (ROOT / "tests/emulator", ROOT / "csrc", *cpp_extension.include_paths())]
        flags = [*FLAGS, *paths, f"-DEMULATED={name}", *(f"-DPRUNE_{m}" for m in macros)]
        objects = [str(folder / f"{name}_{s.name}.o") for s in sources]
        for source, to in zip(sources, objects, strict=True):
            watched = WATCHED if source.suffix == ".cu" else []
            compile_ = [CXX, *flags, *watched, "-x", "c++", "-c", str(source), "-o", to]
            subprocess.run(compile_, check=True)
        links = [f"-L{p}" for p in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10"]
        subprocess.run([CXX, "-shared", *objects, "-o", str(folder / f"{name}.so"), *links], check=True)
        self.schemas = torch.library.Library(name, "DEF")
        for op in ("topk_masks", "masked_sgd_", "indexed_sgd_", "nnz", "pack", "unpack"):
            self.schemas.define(str(getattr(torch.ops.prune, op).default._schema).removeprefix("prune::"))
        self.library = ctypes.CDLL(str(folder / f"{name}.so"))
        self.ops: Any = getattr(torch.ops, name)

    def set(self, seed: int, multiprocessors: int = 3) -> None:
        self.library.emulator_set(ctypes.c_uint64(seed), multiprocessors)

    def work(self) -> tuple[int, int]:
        """Returns the basic blocks that threads entered since the last call, and those of each launch's longest block."""
        work = (ctypes.c_uint64 * 2)()
        self.library.emulator_work(work)
        return work[0], work[1]

    def select(self, case: TopK) -> None:
        """Asserts that topk_masks gives what the reference gives."""
        masks, counts = case.run(self.ops.topk_masks)
        expected, expected_counts = case.run(topk_reference)
        assert all(torch.equal(a, b) for a, b in zip(masks, expected, strict=True))
        assert torch.equal(counts, expected_counts)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    sources = [*sorted(ROOT.glob("csrc/*.cu")), ROOT / "tests/emulator/emulator.cpp"]
    return Emulator("emulated", tmp_path_factory.mktemp("emulated"), sources, [])


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    sources = [ROOT / "csrc/topk_masks_cuda.cu", ROOT / "tests/emulator/emulator.cpp"]
    return Emulator("emulated_small", tmp_path_factory.mktemp("small"), sources, SMALL)


def test_topk_masks_on_random_cases(emulator: Emulator) -> None:
    for seed in range(150):
        emulator.set(seed)
        case = TopK.draw(seed)
        if case.tensors:
            emulator.select(case)


def test_topk_masks_of_large_rankings_on_random_cases(small: Emulator) -> None:
    for seed in range(60):
        small.set(seed)
        case = TopK.draw(1000 + seed, size=48)
        if case.tensors:
            small.select(case)


def weights(kind: str, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = Dice(7).values((n,), "normal")
    if kind == "zeros":
        x[Dice(8).mask((n,), 0.8)] = 0
    elif kind == "clamped":
        x = x.clamp(-0.5, 0.5)
    elif kind == "equal":
        x = torch.full((n,), -0.1)
    elif kind == "five levels":
        x = x.mul(2).round().clamp(-2, 2)
    elif kind == "sorted":
        x = x.sort().values
    elif kind == "runs of 4":
        x = x[: n // 4].repeat_interleave(4)
    elif kind == "runs of 8":
        x = x[: n // 8].repeat_interleave(8)
    elif kind == "misleading":
        x = torch.zeros(n)
        x[::61] = torch.arange(x[::61].numel(), dtype=torch.float32)
    elif kind == "narrow":
        x = 1 + x * 1e-4
    return x.to(dtype)


KINDS = (
    "normal",
    "zeros",
    "clamped",
    "equal",
    "five levels",
    "sorted",
    "runs of 4",
    "runs of 8",
    "misleading",
    "narrow",
)


@pytest.mark.parametrize("kind", KINDS)
def test_topk_masks_by_bracket_and_by_ties(small: Emulator, kind: str) -> None:
    n = 24_000
    for i, dtype in enumerate((torch.float32, torch.bfloat16, torch.float64)):
        x = weights(kind, n, dtype)
        keeps = (0, 1, n // 10, int((x != 0).sum()), n - 1, n) if i == 0 else (n // 10, int((x != 0).sum()))
        for keep in keeps:
            small.set(keep + i)
            small.select(TopK([x[: n // 3], x[n // 3 :]], [keep], True))
        small.select(
            TopK([x[: n // 3], x[n // 3 :]], [n // 3], False, [Dice(9).mask((m,), 0.7) for m in (n // 3, n - n // 3)])
        )
    small.select(TopK([x, x[1:2000]], [n // 5, 77], True))


@pytest.mark.parametrize("kind", ["normal", "zeros", "five levels"])
def test_topk_masks_of_other_layouts(small: Emulator, kind: str) -> None:
    x = weights(kind, 48 * 36 * 9).view(48, 36, 3, 3)
    for last in (
        x.to(memory_format=torch.channels_last),
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.mT.contiguous().mT,
    ):
        for keep in (x.numel() // 5, int((x != 0).sum())):
            small.set(keep)
            small.select(TopK([last, x[0], last[:7]], [keep], True))
            alive = [torch.empty_like(last, dtype=torch.bool).copy_(Dice(2).mask(x.shape, 0.5))]
            small.select(TopK([last], [keep // 2], True, alive))


def test_masked_and_indexed_updates_on_random_cases(emulator: Emulator) -> None:
    for seed in range(120):
        emulator.set(seed)
        case = Update.draw(seed, size=12 if seed % 4 else 90)
        got, expected = case.run(emulator.ops.masked_sgd_), case.run(sgd_reference)
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            torch.testing.assert_close(a, b, rtol=TOLERANCES[a.dtype], atol=TOLERANCES[a.dtype], equal_nan=True)
            pruned = a[~case.masks[i % len(case.masks)]]
            assert torch.equal(pruned, torch.zeros_like(pruned))
            assert not pruned.signbit().any()
        if not case.masters:
            listed_to_the_bit(emulator, case, got)


def listed_to_the_bit(emulator: Emulator, case: Update, dense: list[Tensor]) -> None:
    """Asserts that indexed_sgd_ gives survivors the bits that masked_sgd_ gave them and leaves the rest alone."""
    places = [m.flatten().nonzero().flatten() for m in case.masks]
    lists = [at.int() if i % 2 else at for i, at in enumerate(places)]
    momenta = [m.flatten()[at] for m, at in zip(case.momenta, places, strict=False)]
    params = [p.clone() for p in case.params]
    rate = (0.0, case.lr) if isinstance(case.lr, Tensor) else (case.lr, None)
    emulator.ops.indexed_sgd_(params, case.grads, momenta, lists, *rate, *case.settings.values())
    for i, (mask, at) in enumerate(zip(case.masks, places, strict=True)):
        assert torch.equal(params[i][mask].nan_to_num(7.0), dense[i][mask].nan_to_num(7.0))
        assert torch.equal(params[i][~mask].nan_to_num(7.0), case.params[i][~mask].nan_to_num(7.0))
        assert not momenta or torch.equal(momenta[i], dense[len(params) + i].flatten()[at])


def test_nnz_and_packing_on_random_cases(emulator: Emulator) -> None:
    for seed in range(60):
        emulator.set(seed)
        dice = Dice(seed)
        shape = (dice.number(0, 9), dice.number(1, 400))
        x, mask = dice.strided(dice.values(shape, "zeros").to(dice.one(*DTYPES))), dice.strided(dice.mask(shape, 0.5))
        bits = ops.pack(mask)
        assert torch.equal(emulator.ops.nnz([x, mask, bits]), nnz_reference([x, mask, bits]))
        assert torch.equal(emulator.ops.pack(mask), bits)
        assert torch.equal(emulator.ops.unpack(bits, list(shape)), mask)


@pytest.mark.parametrize("kind", ["zeros", "clamped"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_cost_at_most_three_times_the_ordinary_case(small: Emulator, kind: str, dtype: torch.dtype) -> None:
    def work(kind: str, keep: int) -> tuple[int, int]:
        small.set(1, multiprocessors=16)
        small.work()
        small.select(TopK([weights(kind, n, dtype)], [keep], True))
        return small.work()

    n = 100_000
    ordinary = work("normal", n // 5)
    for keep in {int((weights(kind, n) != 0).sum()), n // 5, n // 2}:
        assert all(a <= 3 * b for a, b in zip(work(kind, min(keep, n)), ordinary, strict=True))
