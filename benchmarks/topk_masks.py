"""Global magnitude masks: the op against what torch and numpy offer, the floor of one read and one written byte, and ties.

    python benchmarks/topk_masks.py [--sizes resnet56,resnet50,vgg16,large] [--threads 1,2] [--device cuda]

Every contender's masks are checked before it is timed: the op's must be exact, the others' must keep as many weights
where the method promises that.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable

import gpu_peers
import torch
from layers import NETWORKS, weights
from timing import Contenders, Probes, Report, arguments, configurations, extra_memory, graphed, interleaved, tried
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning import ops

KEPT = {0.2: 0.8, 0.9: 0.1, 0.98: 0.02}


def masks_over(tensors: list[Tensor], threshold: Tensor | float, out: list[Tensor]) -> list[Tensor]:
    for t, mask in zip(tensors, out, strict=True):
        torch.gt(t.abs(), threshold, out=mask)
    return out


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.abs().flatten() for t in tensors])


def by_kthvalue(tensors: list[Tensor], keep: int, out: list[Tensor]) -> list[Tensor]:
    values = flat(tensors)
    return masks_over(tensors, values.kthvalue(values.numel() - keep).values, out)


def by_topk(tensors: list[Tensor], keep: int, out: list[Tensor]) -> list[Tensor]:
    values = flat(tensors)
    drop = values.numel() - keep
    threshold = values.topk(drop, largest=False).values.max() if drop < keep else values.topk(keep + 1).values.min()
    return masks_over(tensors, threshold, out)


def by_sort(tensors: list[Tensor], keep: int, out: list[Tensor]) -> list[Tensor]:
    values = flat(tensors)
    return masks_over(tensors, values.sort().values[values.numel() - keep - 1], out)


def by_partition(tensors: list[Tensor], keep: int, out: list[Tensor]) -> list[Tensor]:
    values = flat(tensors).numpy()
    at = values.size - keep - 1
    values.partition(at)
    return masks_over(tensors, float(values[at]), out)


def by_cupy(tensors: list[Tensor], keep: int, out: list[Tensor]) -> list[Tensor]:
    import cupy

    values = cupy.from_dlpack(flat(tensors))
    values.sort()  # cub's radix sort
    return masks_over(tensors, torch.from_dlpack(values[values.size - keep - 1]), out)


def by_triton(tensors: list[Tensor], keep: int, out: list[Tensor]) -> list[Tensor]:
    threshold = gpu_peers.triton_threshold(flat(tensors), keep)
    return masks_over(tensors, (threshold.view(torch.int32) - 1).view(torch.float32), out)


def by_global_unstructured(tensors: list[Tensor], keep: int) -> list[Tensor]:
    modules = []
    for t in tensors:
        module = nn.Module()
        module.weight = nn.Parameter(t)
        modules.append(module)
    total = sum(t.numel() for t in tensors)
    prune.global_unstructured([(m, "weight") for m in modules], prune.L1Unstructured, amount=total - keep)
    return [m.weight_mask.bool() for m in modules]


def exact(tensors: list[Tensor], keep: int) -> list[Tensor]:
    order = flat(tensors).sort(descending=True, stable=True).indices[:keep]
    mask = torch.zeros(sum(t.numel() for t in tensors), dtype=torch.bool, device=order.device)
    mask[order] = True
    return [m.view(t.shape) for m, t in zip(mask.split([t.numel() for t in tensors]), tensors, strict=True)]


def contenders(tensors: list[Tensor], keep: int, device: str, slow: bool) -> Contenders:
    out = [torch.empty_like(t, dtype=torch.bool) for t in tensors]
    runs: Contenders = {
        "prune, masks given": lambda: ops.topk_masks(tensors, keep, True, out=out),
        "prune": lambda: ops.topk_masks(tensors, keep, True),
    }
    total = sum(t.numel() for t in tensors)
    if device == "cpu" or slow or total < 30_000_000:  # on a GPU it is one block's work: a second for 165 million
        runs["torch.kthvalue"] = lambda: by_kthvalue(tensors, keep, out)
    if device != "cpu":
        runs |= peers(tensors, keep, out)
    if device == "cpu":
        runs["numpy.partition"] = lambda: by_partition(tensors, keep, out)
    if slow or device != "cpu":
        runs["torch.topk"] = lambda: by_topk(tensors, keep, out)
        runs["torch.sort"] = lambda: by_sort(tensors, keep, out)
        if device == "cpu" or (slow and total < 30_000_000):
            runs["global_unstructured"] = lambda: by_global_unstructured(tensors, keep)
    return runs


def peers(tensors: list[Tensor], keep: int, out: list[Tensor]) -> Contenders:
    """Returns what only a GPU has to offer: Triton, cub's sort through cupy, and cub's selection."""
    runs: Contenders = {}
    if gpu_peers.has_triton():
        runs["Triton's radix select"] = lambda: by_triton(tensors, keep, out)
    if importlib.util.find_spec("cupy"):
        runs["cub's sort, by cupy"] = lambda: by_cupy(tensors, keep, out)
    largest = gpu_peers.cub_largest(keep + 1, sum(t.numel() for t in tensors))
    if largest:
        runs["cub::DeviceTopK"] = lambda: masks_over(tensors, largest(flat(tensors)).min(), out)
    return runs


def checked(run: Callable[[], list[Tensor]], keep: int, total: int) -> Callable[[], list[Tensor]]:
    """Returns the contender, whose masks keep as many weights as they should."""
    kept = sum(int(m.sum()) for m in run())
    assert abs(kept - keep) <= total // 100_000, f"keeps {kept} of {total}, asked for {keep}"
    return run


def main() -> None:
    options = arguments(__doc__ or "", "resnet56,resnet50", "resnet56,resnet50,large")
    slow = options.device != "cpu" or "vgg16" not in options.sizes
    report = Report("topk_masks", options)
    for size, threads in configurations(options):
        torch.set_num_threads(threads)
        tensors = weights(NETWORKS[size](), options.device)
        total = sum(t.numel() for t in tensors)
        for sparsity, density in KEPT.items():
            keep = round(total * density)
            runs = contenders(tensors, keep, options.device, slow and sparsity == 0.9)
            expected = exact(tensors, keep)
            for name in ("prune, masks given", "prune"):
                assert all(torch.equal(a, b) for a, b in zip(runs[name](), expected, strict=True)), name
            for name, run in list(runs.items()):
                if options.device != "cpu" and not name.startswith("prune"):
                    del runs[name]  # a peer that fails must not cost the others' numbers
                    runs |= tried(name, lambda run=run, keep=keep, total=total: checked(run, keep, total))
                else:
                    checked(run, keep, total)
            memory = {name: extra_memory(run) for name, run in runs.items()} if options.device == "cpu" else {}
            out = [torch.empty_like(t, dtype=torch.bool) for t in tensors]
            if options.device == "cpu":
                runs["floor: read 4, write 1"] = Probes().loop("read4_write1", tensors, tensors, out, last=0.02)
            else:
                runs |= tried("prune in a CUDA graph", lambda runs=runs: graphed(runs["prune, masks given"]))
                runs["torch's masks, threshold given"] = lambda ts=tensors, out=out: masks_over(ts, 0.02, out)
            if sparsity == 0.9:
                runs |= ties(tensors, keep, out)
            times = interleaved(runs, options.device, options.repeats)
            row = {"network": size, "weights": total, "sparsity": sparsity, "threads": threads}
            report.row({**row, "times": times, "memory_mb": memory}, least=5 * total)


def ties(tensors: list[Tensor], keep: int, out: list[Tensor]) -> Contenders:
    """Returns selections among heavy ties: all equal, 80 % zeros with the threshold among them, bfloat16, five levels."""
    total = sum(t.numel() for t in tensors)
    equal = [torch.full_like(t, 0.1) for t in tensors]
    zeros = [t * (torch.rand_like(t) < 0.2) for t in tensors]
    alive = sum(int(t.count_nonzero()) for t in zeros)
    brain = [t.bfloat16() for t in tensors]
    levels = [(t.sign() + (torch.rand_like(t) < 0.5)) * 0.1 for t in tensors]
    given = {
        "all equal": (equal, keep),
        "80 % zeros": (zeros, total // 2),
        "80 % zeros, all others kept": (zeros, alive),
        "bfloat16": (brain, keep),
        "five levels": (levels, keep),
    }
    return {
        f"prune, {name}": lambda ts=ts, k=k: ops.topk_masks(ts, k, True, out=out)
        for name, (ts, k) in copy.copy(given).items()
    }


if __name__ == "__main__":
    main()
