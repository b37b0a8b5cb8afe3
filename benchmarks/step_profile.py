"""Where a masked training step's time goes: kernels and launches of ResNet-20's step, batch 128, by torch.profiler.

python benchmarks/step_profile.py [--device cuda] [--steps 10]

For torch's fused SGD and MaskedSGD at 90 % sparsity: the step's wall time, kernels by their time, calls by the CPU's time.
"""

from __future__ import annotations

import argparse
import time

import torch
from epoch import step
from torch.profiler import ProfilerActivity, profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    on_gpu = options.device != "cpu"
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    for name, sparsity in (("torch's fused SGD", None), ("MaskedSGD, 90 %", 0.9)):
        run, update = step(options.device, sparsity)
        for what, call in (("step", run), ("update", update)):
            for _ in range(min(5, options.steps)):
                call()
            wait()
            start = time.perf_counter()
            for _ in range(options.steps):
                call()
            wait()
            print(f"{name}: {1e3 * (time.perf_counter() - start) / options.steps:.3f} ms a {what}, n = {options.steps}")
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
        for what, call in (("step", run), ("update", update)):
            with profile(activities=activities) as seen:
                for _ in range(options.steps):
                    call()
                wait()
            for by in (["self_cuda_time_total"] if on_gpu else []) + ["self_cpu_time_total"]:
                print(f"\n{name}: {options.steps} x {what}, by {by}")
                print(seen.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=70), flush=True)


if __name__ == "__main__":
    main()
