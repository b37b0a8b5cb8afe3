"""A training step with masks beside one without.

    python benchmarks/epoch.py [--device cpu] [--threads 1,2] [--repeats 15]

ResNet-20, batch 128, CIFAR-10-sized noise: forward, backward and update by torch's plain fused SGD, and by MaskedSGD with
90 and 98 % of the weights pruned, as `prune` builds it: fused for what has no mask. Then the updates alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timing import Report, arguments, interleaved

from pruning import MaskedSGD, models, prune

RULE: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}


def step(device: str, sparsity: float | None) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns a training step of ResNet-20 and its update alone, masked or by torch's fused SGD."""
    model = models.build("resnet20", (3, 32, 32), 10, seed=0).to(device)
    x, y = torch.randn(128, 3, 32, 32, device=device), torch.randint(10, (128,), device=device)
    if sparsity is None:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), fused=True, **RULE)
    else:
        optimizer = MaskedSGD(model.parameters(), fused=True, **RULE)
        optimizer.set_masks(model, prune(model, sparsity=sparsity))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    run()
    return run, optimizer.step


def main() -> None:
    options = arguments(__doc__ or "", "resnet20")
    report = Report("epoch", options)
    for threads in [int(t) for t in options.threads.split(",")] if options.device == "cpu" else [1]:
        torch.set_num_threads(threads)
        cases = {"torch fused": step(options.device, None)}
        cases |= {f"masked, {sparsity:.0%}": step(options.device, sparsity) for sparsity in (0.9, 0.98)}
        runs = {f"step, {name}": run for name, (run, _) in cases.items()}
        updates = {f"update, {name}": update for name, (_, update) in cases.items()}
        times = interleaved(runs, options.device, options.repeats) | interleaved(updates, options.device, 100)
        report.row({"network": "resnet20", "threads": threads, "times": times})


if __name__ == "__main__":
    main()
