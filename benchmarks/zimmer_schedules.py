"""Zimmer et al.'s comparison of retraining schedules (2023, section 3.1, Table 1) on digits: one shot, short budgets.

    python benchmarks/zimmer_schedules.py [--out runs] [--record benchmarks/results/DATE-zimmer-schedules.md]

LeNet-300-100 pruned by global magnitude, retrained for 2, 5 and 10 % of the training with each schedule. Runs that are
already under --out are reused. Prints mean and sample standard deviation of the test accuracy; the best mean is bold.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from pruning import engine, runs
from pruning.checkpoint import environment
from pruning.plan import Prune, Retrain, Train

SEEDS = range(5)
T = 2.776  # two-sided 95 % point of Student's t with 4 degrees of freedom
SPARSITIES = (0.5, 0.7, 0.9, 0.95, 0.98)
BUDGETS = (2, 5, 10)  # epochs, of 100
SCHEDULES = ("ft", "lrw", "slr", "clr", "llr", "allr", "allr-d1", "allr-d2")
TRAIN = Train(  # drops at 45 % and 90 % of the training, as theirs for CIFAR-10
    model="lenet-300-100", data="digits", epochs=100, batch_size=128, lr=0.1, nesterov=True, milestones=(45, 90),
    split="none",
)  # fmt: skip

Found = dict[tuple[float, int, str], list[float]]


def measure(out: Path) -> tuple[list[float], Found]:
    """Returns (dense test accuracies, {(sparsity, epochs, schedule): test accuracies}) in percent, one per seed."""
    dense, found = [], {}
    for seed in SEEDS:
        trained = engine.advance(TRAIN.model_copy(update={"seed": seed}), None, out, device="cpu")
        dense.append(100 * runs.read_summary(trained)["accuracy"])
        for sparsity in SPARSITIES:
            pruned = engine.advance(Prune(sparsity=sparsity), trained, out, device="cpu")
            found.setdefault((sparsity, 0, "not retrained"), []).append(100 * runs.read_summary(pruned)["accuracy"])
            for epochs in BUDGETS:
                for name in SCHEDULES:
                    phase = Retrain(technique="fine-tune", schedule=name, epochs=epochs, optimizer_state="reset")
                    run = engine.advance(phase, pruned, out, device="cpu")
                    found.setdefault((sparsity, epochs, name), []).append(100 * runs.read_summary(run)["accuracy"])
    return dense, found


def table(found: Found) -> str:
    """Returns one row per sparsity and budget as Markdown."""
    head = [
        "| sparsity | epochs |" + "".join(f" {name} |" for name in SCHEDULES),
        "|---|---|" + "---|" * len(SCHEDULES),
    ]
    rows = []
    for sparsity in SPARSITIES:
        for epochs in BUDGETS:
            means = [statistics.mean(found[sparsity, epochs, name]) for name in SCHEDULES]
            cells = []
            for name, mean in zip(SCHEDULES, means, strict=True):
                number = f"**{mean:.1f}**" if mean == max(means) else f"{mean:.1f}"
                cells.append(f"{number} +- {statistics.stdev(found[sparsity, epochs, name]):.1f}")
            rows.append(f"| {sparsity:.0%} | {epochs} | " + " | ".join(cells) + " |")
    return "\n".join([*head, *rows])


PAIRS = (("lrw", "ft"), ("slr", "lrw"), ("llr", "slr"), ("allr", "slr"), ("allr", "llr"))


def differences(found: Found) -> str:
    """Returns paired differences of schedules, mean and 95 % interval (Student's t), as Markdown."""
    head = ["| sparsity | epochs |" + "".join(f" {a} - {b} |" for a, b in PAIRS), "|---|---|" + "---|" * len(PAIRS)]
    rows = []
    for sparsity in SPARSITIES:
        for epochs in BUDGETS:
            cells = []
            for a, b in PAIRS:
                pairs = zip(found[sparsity, epochs, a], found[sparsity, epochs, b], strict=True)
                gaps = [one - other for one, other in pairs]
                cells.append(f"{statistics.mean(gaps):+.2f} +- {T * statistics.stdev(gaps) / len(gaps) ** 0.5:.2f}")
            rows.append(f"| {sparsity:.0%} | {epochs} | " + " | ".join(cells) + " |")
    return "\n".join([*head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    dense, found = measure(options.out)
    facts = environment(torch.device("cpu"))
    before = ", ".join(f"{s:.0%}: {statistics.mean(found[s, 0, 'not retrained']):.1f}" for s in SPARSITIES)
    text = (
        f"{table(found)}\n\nIn points, paired by seed:\n\n{differences(found)}\n\n"
        f"Test accuracy in percent, mean +- sample standard deviation of seeds 0-4 (n = 5). {TRAIN.model}, "
        f"{TRAIN.data} (all 1,442 training images), {TRAIN.epochs} epochs of batch {TRAIN.batch_size}, lr {TRAIN.lr} dropped at "
        f"{TRAIN.milestones}; dense {statistics.mean(dense):.2f} +- {statistics.stdev(dense):.2f}; pruned and not retrained "
        f"{before}. {facts['cpu']}, 1 thread, torch {facts['torch']}, {time.perf_counter() - started:.0f} s in all.\n"
    )
    print(text)
    if options.record:
        options.record.write_text(
            f"# Retraining schedules on digits\n\n    python benchmarks/zimmer_schedules.py\n\n{text}"
        )


if __name__ == "__main__":
    main()
