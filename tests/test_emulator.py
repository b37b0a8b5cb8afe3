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
from ops_cases import DTYPES, TOLERANCES, Dice, TopK, Update, indexed_reference, nnz_reference, sgd_reference, topk_reference
from torch import Tensor

from pruning import ops

ROOT = Path(__file__).parents[1]
CXX = os.environ.get("CXX") or shutil.which("g++")
FLAGS = (
    "-std=c++20 -O1 -fPIC -fvisibility=hidden -fno-gnu-unique -fno-strict-aliasing -ffp-contract=off -U_FORTIFY_SOURCE "
    "-ftrivial-auto-var-init=pattern -w -DTORCH_TARGET_VERSION=0x020b000000000000"
).split()
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
