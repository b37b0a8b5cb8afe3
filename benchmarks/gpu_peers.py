"""What stands beside the ops on a GPU: radix selection and a masked update in Triton, cub::DeviceTopK and cub's sort.

Triton's kernels get flat tensors, their best case. cub::DeviceTopK needs the headers of CCCL 3.2 or later: the toolkit's,
or those of the package nvidia-cuda-cccl (13.2 and later) on the path.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if importlib.util.find_spec("triton"):
    import triton
    import triton.language as tl

    @triton.jit
    def _histogram(x, counts, prefix, n, above, SHIFT: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        bits = tl.load(x + at, mask=inside, other=0.0).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        mine = inside & ((bits >> above) == tl.load(prefix))
        found = tl.histogram((bits >> SHIFT) & (BINS - 1), BINS, mask=mine)
        bins = tl.arange(0, BINS)
        tl.atomic_add(counts + bins, found, mask=found > 0)

    @triton.jit
    def _update(w, g, m, mask, n, lr, momentum, decay, BLOCK: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        kept = tl.load(mask + at, mask=inside, other=0) != 0
        weight = tl.load(w + at, mask=inside)
        grad = tl.load(g + at, mask=inside) + decay * weight
        velocity = momentum * tl.load(m + at, mask=inside) + grad
        stepped = weight - lr * (grad + momentum * velocity)
        tl.store(m + at, tl.where(kept, velocity, 0.0), mask=inside)
        tl.store(w + at, tl.where(kept, stepped, 0.0), mask=inside)


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def triton_threshold(values: Tensor, keep: int) -> Tensor:
    """Returns the `keep`-th largest magnitude (0-d) of float32 values [n], by three passes over 11, 10 and 10 bits."""
    prefix = torch.zeros((), dtype=torch.int32, device=values.device)
    left = torch.full((), keep, dtype=torch.int64, device=values.device)
    above = 31
    for bits in (11, 10, 10):
        bins, shift = 1 << bits, above - bits
        counts = torch.zeros(bins, dtype=torch.int32, device=values.device)
        grid = (triton.cdiv(values.numel(), 4096),)
        # of what agrees with the prefix; 31 and not 32, for which a shift is undefined: the sign is cleared
        _histogram[grid](values, counts, prefix, values.numel(), above, SHIFT=shift, BINS=bins, BLOCK=4096, num_warps=8)
        from_top = counts.flip(0).cumsum(0)
        at = (from_top < left).sum()
        left = left - torch.where(at > 0, from_top[(at - 1).clamp(min=0)], 0)
        prefix = ((prefix << bits) | (bins - 1 - at)).int()
        above = shift
    return prefix.view(torch.float32)


def triton_update(w: Tensor, g: Tensor, m: Tensor, mask: Tensor, lr: float, momentum: float, decay: float) -> None:
    """Does one masked step of SGD with Nesterov's momentum, in place, on flat float32 tensors [n]."""
    grid = (triton.cdiv(w.numel(), 1024),)
    _update[grid](w, g, m, mask.view(torch.uint8), w.numel(), lr, momentum, decay, BLOCK=1024)


@cache
def cub_library() -> ctypes.CDLL | None:
    """Returns cub::DeviceTopK compiled for this card; None where its headers, nvcc or the compilation fail, and says so."""
    nvcc = shutil.which("nvcc")
    folders = [Path(p, "nvidia", "cu13", "include", "cccl") for p in sys.path]
    carried = [f for f in folders if (f / "cub" / "device" / "device_topk.cuh").exists()]
    if not nvcc:
        print("cub::DeviceTopK: no nvcc", flush=True)
        return None
    major, minor = torch.cuda.get_device_capability()
    library = Path(tempfile.mkdtemp(), "cub_topk.so")
    done = subprocess.run(
        [nvcc, "-O3", "-std=c++20", "-shared", "-Xcompiler=-fPIC", f"-arch=sm_{major}{minor}",
         *(f"-I{f}" for f in carried[:1]), str(Path(__file__).with_name("cub_topk.cu")), "-o", str(library)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        error = next((l for l in done.stderr.splitlines() if "error" in l), "nvcc failed")
        print(f"cub::DeviceTopK: {error}", flush=True)
        return None
    return ctypes.CDLL(str(library))


def cub_largest(keep: int, n: int) -> Callable[[Tensor], Tensor] | None:
    """Returns a function from float32 values [n] to the `keep` largest, in no order; None where cub has none."""
    library = cub_library()
    if library is None:
        return None
    size = ctypes.c_size_t(0)
    library.cub_topk.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_longlong, ctypes.c_longlong, ctypes.c_void_p,
    ]  # fmt: skip
    library.cub_topk(None, ctypes.addressof(size), None, None, n, keep, None)
    workspace: Any = torch.empty(size.value, dtype=torch.uint8, device="cuda")
    out = torch.empty(keep, device="cuda")

    def largest(values: Tensor) -> Tensor:
        stream = torch.cuda.current_stream().cuda_stream
        given = (workspace.data_ptr(), ctypes.addressof(size), values.data_ptr(), out.data_ptr(), n, keep, stream)
        if error := library.cub_topk(*given):
            raise RuntimeError(f"cub::DeviceTopK: CUDA error {error}")
        return out

    return largest
