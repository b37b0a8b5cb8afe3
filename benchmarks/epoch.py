"""A training step with masks beside one without, and where the time of pruning a large network goes.

    python benchmarks/epoch.py [--device cpu] [--threads 1,2] [--repeats 15]

ResNet-20, batch 128, CIFAR-10-sized noise: forward, backward and update by torch's plain fused SGD, and by MaskedSGD with
90 % of the weights pruned. Then a network of ResNet-50's shapes: reading its weights from a checkpoint, selecting 10 %,
writing masks and weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from layers import NETWORKS, weights
from timing import Contenders, arguments, interleaved, report

from pruning import MaskedSGD, Masks, models, ops, prune

RULE: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}


def step(device: str, sparsity: float | None) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns a training step of ResNet-20 and its update alone, masked or by torch's fused SGD."""
    model = models.build("resnet20", (3, 32, 32), 10, seed=0).to(device)
    x, y = torch.randn(128, 3, 32, 32, device=device), torch.randint(10, (128,), device=device)
    if sparsity is None:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), fused=True, **RULE)
    else:
        optimizer = MaskedSGD(model.parameters(), **RULE)
        optimizer.set_masks(model, prune(model, sparsity=sparsity))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    run()
    return run, optimizer.step


def pruning_a_checkpoint(folder: Path) -> Contenders:
    """Returns the parts of pruning a network of ResNet-50's shapes that lies in a file."""
    tensors = {f"layer{i}.weight": t for i, t in enumerate(weights(NETWORKS["resnet50"]()))}
    file, keep = folder / "weights.safetensors", sum(t.numel() for t in tensors.values()) // 10
    safetensors.torch.save_file(tensors, file)
    masks = Masks(dict(zip(tensors, ops.topk_masks(list(tensors.values()), keep, True), strict=True)))
    return {
        "read the weights": lambda: [t.clone() for t in safetensors.torch.load_file(file).values()],
        "select": lambda: ops.topk_masks(list(tensors.values()), keep, True),
        "write the masks": lambda: masks.save(folder / "masks.safetensors"),
        "write the weights": lambda: safetensors.torch.save_file(tensors, folder / "pruned.safetensors"),
    }


def main() -> None:
    options = arguments(__doc__ or "", "resnet20")
    rows = []
    for threads in [int(t) for t in options.threads.split(",")] if options.device == "cpu" else [1]:
        torch.set_num_threads(threads)
        plain, plain_update = step(options.device, None)
        masked, masked_update = step(options.device, 0.9)
        runs = {"step, torch fused": plain, "step, masked": masked}
        updates = {"update, torch fused": plain_update, "update, masked": masked_update}
        times = interleaved(runs, options.device, options.repeats) | interleaved(updates, options.device, 50)
        rows.append({"network": "resnet20", "threads": threads, "times": times})
        with tempfile.TemporaryDirectory() as folder:
            parts = interleaved(pruning_a_checkpoint(Path(folder)), "cpu", 7)
        rows.append({"network": "resnet50's shapes", "threads": threads, "times": parts})
    report("epoch", rows, options)


if __name__ == "__main__":
    main()
