"""Time and memory of scoring ResNet-50 on 10 images of each of ImageNet's 1,000 classes (Frankle et al. 2021), in train mode.

    python benchmarks/scoring_memory.py [--device cuda] [--images 10000] [--micro-batch 100 250]

SNIP and GraSP on random images of 3x224x224, so many at once that share their BatchNorm statistics. Prints seconds, the peak of
the GPU's memory above the model's own, and the share of weights whose place among the 10 % kept both splits agree on.
"""

from __future__ import annotations

import argparse
import time

import torch
import torchvision

import pruning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--micro-batch", type=int, nargs="+", default=[100, 250])
    options = parser.parse_args()
    torch.manual_seed(0)
    on_gpu = options.device != "cpu"
    model = torchvision.models.resnet50().to(options.device)
    batch = torch.randn(options.images, 3, 224, 224), torch.arange(options.images) * 1000 // options.images
    print(torch.__version__, torch.cuda.get_device_name() if on_gpu else "cpu", options.images, "images", flush=True)
    kept: dict[str, torch.Tensor] = {}
    for criterion in ("snip", "grasp"):
        for size in options.micro_batch:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            start = time.perf_counter()
            scores = pruning.score(model, criterion, batch=batch, mode="train", micro_batch=size)
            if on_gpu:
                torch.cuda.synchronize()
            taken = f"{time.perf_counter() - start:.1f} s"
            peak = f"{(torch.cuda.max_memory_allocated() - before) / 2**30:.1f} GiB" if on_gpu else ""
            flat = torch.cat([score.flatten() for score in scores.values()])
            mask = (
                flat >= flat.kthvalue(round(0.9 * flat.numel())).values
                if not on_gpu
                else flat >= flat.topk(flat.numel() // 10).values.min()
            )
            agreed = f"agrees {(mask & kept[criterion]).sum() / mask.sum():.3f}" if criterion in kept else ""
            kept[criterion] = mask
            print(criterion, "micro-batch", size, taken, peak, agreed, flush=True)


if __name__ == "__main__":
    main()
