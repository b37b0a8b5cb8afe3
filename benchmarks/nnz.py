"""Counting nonzeros: the op on weights, masks and packed masks against torch and numpy, and the floor of one read.

python benchmarks/nnz.py [--sizes resnet56,resnet50,vgg16] [--threads 1,2] [--device cuda]
"""

from __future__ import annotations

import numpy as np
import torch
from layers import NETWORKS, weights
from timing import Contenders, Probes, Report, arguments, configurations, interleaved

from pruning import ops


def main() -> None:
    options = arguments(__doc__ or "", "resnet56,resnet50", "resnet56,resnet50,large")
    report = Report("nnz", options)
    for size, threads in configurations(options):
        torch.set_num_threads(threads)
        tensors = weights(NETWORKS[size](), options.device)
        masks = ops.topk_masks(tensors, sum(t.numel() for t in tensors) // 10, True)
        sparse = [t.where(m, 0) for t, m in zip(tensors, masks, strict=True)]
        bits = [ops.pack(m) for m in masks]
        expected = torch.stack([m.sum() for m in masks])
        for given in (sparse, masks, bits):
            assert torch.equal(ops.nnz(given), expected)
        runs: Contenders = {
            "prune, weights": lambda ts=sparse: ops.nnz(ts),
            "prune, masks": lambda ts=masks: ops.nnz(ts),
            "prune, packed masks": lambda ts=bits: ops.nnz(ts),
            "torch.count_nonzero, weights": lambda ts=sparse: [torch.count_nonzero(t) for t in ts],
            "torch.count_nonzero, masks": lambda ts=masks: [torch.count_nonzero(t) for t in ts],
        }
        if options.device == "cpu":
            arrays = [m.numpy() for m in masks]
            runs["numpy.count_nonzero, masks"] = lambda arrays=arrays: [np.count_nonzero(a) for a in arrays]
            runs["floor: read 4"] = Probes().loop("read4", sparse, sparse)
            runs["floor: read 1"] = Probes().loop("read1", masks, masks)
        times = interleaved(runs, options.device, max(options.repeats, 25))
        total = sum(t.numel() for t in tensors)
        row = {"network": size, "weights": total, "sparsity": 0.9, "threads": threads, "times": times}
        report.row(row, least=4 * total)


if __name__ == "__main__":
    main()
