"""How long SynFlow takes to prune, and where the time goes: 100 rounds of scoring and allocation.

    python benchmarks/synflow.py [--model resnet56] [--sparsity 0.9] [--repeats 3] [--record FILE]

Processor time as well as wall time, which other work on the machine lengthens. Checks the exact count first.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch

from pruning import models
from pruning.deciding import decision
from pruning.deciding.allocation.sharing import allocate
from pruning.deciding.scoring import score
from pruning.masks import keep_count, prunable
from pruning.record.environment import environment


def seconds(work: object, repeats: int) -> tuple[list[float], list[float]]:
    """Returns (wall seconds, processor seconds) of each repeat."""
    wall, busy = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        work()  # type: ignore[operator]
        wall.append(time.perf_counter() - started)
        busy.append(time.process_time() - used)
    return wall, busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    network = models.build(options.model, (3, 32, 32), 10, seed=0)
    batch = (torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64))
    density = 1 - options.sparsity
    total = sum(weight.numel() for weight in prunable(network).values())

    asked = decision.Decision("synflow", options.sparsity)
    masks = asked.decide(network, batch=batch)  # the warm-up
    assert masks.kept == keep_count(total, options.sparsity)
    scores = score(network, "synflow", batch=batch)
    parts = {
        "100 rounds in all": (lambda: asked.decide(network, batch=batch), options.repeats),
        "one scoring": (lambda: score(network, "synflow", batch=batch), 10),
        "one allocation": (lambda: allocate(scores, density), 10),
    }
    lines = ["| | wall, s (median) | min | max | processor, s (median) | n |", "|---|---|---|---|---|---|"]
    for name, (work, repeats) in parts.items():
        wall, busy = seconds(work, repeats)
        numbers = [statistics.median(wall), min(wall), max(wall), statistics.median(busy)]
        lines.append(f"| {name} | " + " | ".join(f"{n:.4f}" for n in numbers) + f" | {repeats} |")
    facts = environment(torch.device("cpu"))
    text = (
        "\n".join(lines)
        + f"\n\n{options.model}, {total:,} weights, to {options.sparsity:.0%}; float64, one input of ones. "
        f"{facts['cpu']}, {torch.get_num_threads()} threads, torch {facts['torch']}, Python {platform.python_version()}.\n"
    )
    print(text)
    if options.record:
        options.record.write_text(f"# SynFlow\n\n    python benchmarks/synflow.py\n\n{text}")


if __name__ == "__main__":
    main()
