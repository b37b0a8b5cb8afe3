"""What the engine adds to a training epoch: everything that is not forward, backward and update.

    python benchmarks/overhead.py [--steps 24] [--repeats 5] [--record FILE]

ResNet-20, batch 128, CIFAR-10-sized images made from random bytes. Side by side, in turns: the engine's loop (shuffling,
crop, flip, normalization, schedule, metrics, events), and a bare loop of forward, backward and update over one batch that
is ready. The engine's own parts are then timed alone, so that the difference can be read.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from pruning import models
from pruning.data.source import Source
from pruning.data.tensors import TensorData
from pruning.engine.session import find_device
from pruning.events import silent
from pruning.record.environment import environment
from pruning.training import loop
from pruning.training.methods.base import Method
from pruning.training.optim import MaskedSGD

BATCH = 128


def make_data(steps: int, device: torch.device) -> TensorData:
    n = steps * BATCH
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (n,), generator=generator)
    source = Source((images, labels), None, (images[:BATCH], labels[:BATCH]), 10, mean=(0.5,) * 3, std=(0.25,) * 3)
    return TensorData("random", source, augment="crop-flip", normalize="channel", padding=4, device=device)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], None], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    device = find_device(options.device)
    data = make_data(options.steps, device)
    network = models.build("resnet20", (3, 32, 32), 10, seed=0).to(device)
    optimizer = MaskedSGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    x, y = next(data.train_batches(BATCH, 0, 0))

    def engine() -> None:
        loop.fit(
            network, data, optimizer, lambda step: 0.01, epochs=1, batch_size=BATCH, seed=0, method=Method(),
            device=device, on_epoch=lambda record: None, tell=silent,
        )  # fmt: skip

    def bare() -> None:
        network.train()
        for _ in range(options.steps):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(x), y).backward()
            optimizer.step()

    def batches() -> None:
        for _ in data.train_batches(BATCH, 0, 0):
            pass

    def metrics() -> None:
        total, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        logits, loss = torch.zeros(BATCH, 10, device=device), torch.zeros((), device=device)
        for _ in range(options.steps):
            total += loss.detach() * len(y)
            correct += (logits.argmax(1) == y).sum()

    work = {"engine's loop": engine, "bare loop": bare, "batches alone": batches, "metrics alone": metrics}
    times: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(options.repeats + 1):
        for name, one in work.items():
            taken = seconds(one, device)
            if repeat:  # the first is the warm-up
                times[name].append(1000 * taken / options.steps)
    ratios = [a / b for a, b in zip(times["engine's loop"], times["bare loop"], strict=True)]
    lines = ["| ms per step | median | min | max |", "|---|---|---|---|"]
    lines += [f"| {name} | {statistics.median(t):.3f} | {min(t):.3f} | {max(t):.3f} |" for name, t in times.items()]
    lines.append(
        f"| engine / bare, in pairs | {statistics.median(ratios):.4f} | {min(ratios):.4f} | {max(ratios):.4f} |"
    )
    facts = environment(device)
    where = f"{facts.get('gpu') or facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, "
    where += f"Python {platform.python_version()}"
    text = (
        "\n".join(lines)
        + f"\n\nResNet-20, batch {BATCH}, {options.steps} steps a turn, n = {options.repeats}; {where}.\n"
    )
    print(text)
    if options.record:
        options.record.write_text(f"# Overhead of the engine\n\n    python benchmarks/overhead.py\n\n{text}")


if __name__ == "__main__":
    main()
