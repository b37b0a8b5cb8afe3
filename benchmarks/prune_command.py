"""Where the time of `prune prune` goes on a network of ResNet-50's size.

    python benchmarks/prune_command.py [--model torchvision:resnet50] [--repeats 5] [--threads 2] [--record FILE]

A run of the model on four random images is made without training; then it is pruned to 90 % again and again, in this
process, with the engine's own parts timed where they are called: what remains is beside them. The images are so small
that evaluating costs next to nothing: with real data it is as long as the test images take.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import machine

from pruning import engine, models, ops
from pruning.deciding import decision
from pruning.engine import results
from pruning.masks import Masks
from pruning.plan import Prune, Train
from pruning.record import checkpoint
from pruning.training import loop

IMAGES = """
import torch


def load():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4) % 2
    return (x, y), None, (x, y)
"""
PARTS: dict[str, list[tuple[Any, str]]] = {
    "build the network": [(models, "build")],
    "read weights and momenta": [(checkpoint, "load")],
    "copy them into the network, check them": [(checkpoint, "restore")],
    "score and select": [(decision, "decide")],
    "write weights, masks and momenta": [(checkpoint, "save"), (Masks, "save")],
    "evaluate and count MACs": [(loop, "evaluate"), (results, "count_macs")],
}


class Clock:
    """Seconds spent inside functions of the engine, which are replaced by timed ones."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)
        for part, places in PARTS.items():
            for owner, name in places:
                setattr(owner, name, self.timed(part, getattr(owner, name)))

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.spent[part] += time.perf_counter() - started

        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images.py").write_text(IMAGES)
        train = Train(
            model=options.model, data=f"{folder / 'images.py'}:load", epochs=1, batch_size=4, lr=1e-9, split="none"
        )
        dense = engine.advance(train, None, folder / "dense", device="cpu", trust_code=True)
        size = sum(f.stat().st_size for f in dense.iterdir()) / 1e6
        clock = Clock()
        rows: list[dict[str, float]] = []
        for i in range(options.repeats + 1):
            clock.spent = dict.fromkeys(PARTS, 0.0)
            started = time.perf_counter()
            # another sparsity each time: equal settings would be the same run
            engine.advance(Prune(sparsity=0.9 + 1e-6 * i), dense, folder / "dense", device="cpu", trust_code=True)
            total = time.perf_counter() - started
            if i:  # the first warms up
                rows.append({**clock.spent, "beside them": total - sum(clock.spent.values()), "all": total})
    lines = ["| part | ms, median | quartiles | share |", "|---|---:|---:|---:|"]
    whole = statistics.median(row["all"] for row in rows)
    for part in rows[0]:
        q1, median, q3 = statistics.quantiles([1e3 * row[part] for row in rows], n=4)
        lines.append(f"| {part} | {median:.0f} | {q1:.0f}-{q3:.0f} | {median / whole / 10:.0f} % |")
    about = machine("cpu")
    text = "\n".join(lines) + (
        f"\n\n{options.model}, {size:.0f} MB of run folder, to 90 %; n = {len(rows)}, {options.threads} threads. {about['cpu']}, "
        f"{about['platform']}, torch {about['torch']}, {ops.backend('cpu')} ({about['instructions']}), load {about['load']}.\n"
    )
    print(text)
    if options.record:
        options.record.write_text(
            f"# The time of pruning a large run\n\n    python benchmarks/prune_command.py\n\n{text}"
        )


if __name__ == "__main__":
    main()
