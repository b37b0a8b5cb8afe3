"""The README's table: the recipe `digits` over five seeds, at several sparsities and with every technique.

    python benchmarks/digits.py [--out runs] [--record benchmarks/results/DATE-digits.md]

Runs that are already under --out are reused. Prints mean and sample standard deviation of the test accuracy.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from pathlib import Path

import torch
from pruning.record.rewind import TECHNIQUES

from pruning import engine, ops
from pruning.plan import Prune, Retrain, load_plan, override
from pruning.record import runs

SEEDS = range(5)
SPARSITIES = (0.9, 0.95, 0.98)


def accuracy(run: Path) -> float:
    return 100 * runs.read_summary(run)["accuracy"]


def measure(out: Path) -> dict[str, list[float]]:
    """Returns {row: test accuracies in percent, one per seed}."""
    rows: dict[str, list[float]] = {}
    train = load_plan("digits").train
    for seed in SEEDS:
        dense = engine.advance(override(train, {"seed": seed}), None, out, device="cpu")
        rows.setdefault("dense", []).append(accuracy(dense))
        for sparsity in SPARSITIES:
            pruned = engine.advance(Prune(sparsity=sparsity), dense, out, device="cpu")
            rows.setdefault(f"{sparsity:.0%} sparse, not retrained", []).append(accuracy(pruned))
            for technique in TECHNIQUES:
                run = engine.advance(Retrain(technique=technique), pruned, out, device="cpu")
                rows.setdefault(f"{sparsity:.0%} sparse, {technique}", []).append(accuracy(run))
    return rows


def table(rows: dict[str, list[float]]) -> str:
    """Returns the rows as Markdown."""
    head = ["| network | test accuracy, % (mean +- std) | min | max |", "|---|---|---|---|"]
    body = [
        f"| {name} | {statistics.mean(v):.2f} +- {statistics.stdev(v):.2f} | {min(v):.2f} | {max(v):.2f} |"
        for name, v in rows.items()
    ]
    return "\n".join([*head, *body])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    rows = measure(options.out)
    train = load_plan("digits").train
    where = (
        f"Recipe `digits`: {train.model}, {train.epochs} epochs, retrained for as many; seeds 0-4 (n = {len(SEEDS)}); "
        f"torch {torch.__version__}, {torch.get_num_threads()} CPU thread(s), {platform.machine()}, backend {ops.backend('cpu')}."
    )
    text = f"{table(rows)}\n\n{where}\n"
    print(text)
    if options.record:
        options.record.write_text(f"# Digits\n\n    python benchmarks/digits.py\n\n{text}")


if __name__ == "__main__":
    main()
