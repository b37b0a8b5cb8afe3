"""Frankle et al.'s controls (2021, section 5) on digits: what do masks from before training owe to the weights they name?

    python benchmarks/frankle_ablations.py [--seeds 5] [--out runs] [--record FILE]

LeNet-300-100, the whole training after every pruning. Each control is paired with the same method and seed without it:
mean difference of the test accuracy and its 95 % interval (Student's t). Runs that are already under --out are reused.
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

T = {3: 4.303, 4: 3.182, 5: 2.776}  # seeds -> two-sided 95 % point of Student's t
SPARSITIES = (0.8, 0.9, 0.95)
AT_INIT = ("magnitude", "snip", "grasp", "synflow")
AFTER = "magnitude after training"
CONTROLS = ("shuffle", "reinit", "invert")
TRAIN = Train(
    model="lenet-300-100", data="digits", epochs=40, batch_size=128, lr=0.1, milestones=(20, 30),
    weight_init="he-normal-fan-in", split="none",
)  # fmt: skip


def measure(out: Path, seeds: int) -> dict[tuple[str, float, str | None], list[float]]:
    """Returns {(method, sparsity, control): test accuracies in percent, one per seed}; dense under ("dense", 0, None)."""
    found: dict[tuple[str, float, str | None], list[float]] = {}
    for seed in range(seeds):
        dense = engine.advance(TRAIN.model_copy(update={"seed": seed}), None, out, device="cpu")
        found.setdefault(("dense", 0.0, None), []).append(100 * runs.read_summary(dense)["accuracy"])
        for sparsity in SPARSITIES:
            for method in ("random", *AT_INIT, AFTER):
                for control in (None, *CONTROLS):
                    if method == "random" and control:
                        continue
                    criterion, epoch = ("magnitude", None) if method == AFTER else (method, 0)
                    phase = Prune(sparsity=sparsity, criterion=criterion, at_epoch=epoch, ablation=control)
                    pruned = engine.advance(phase, dense, out, device="cpu")
                    # from the weights that the pruning left, over the whole schedule
                    run = engine.advance(Retrain(technique="lr-rewind"), pruned, out, device="cpu")
                    found.setdefault((method, sparsity, control), []).append(100 * runs.read_summary(run)["accuracy"])
    return found


def table(found: dict[tuple[str, float, str | None], list[float]]) -> str:
    """Returns the accuracies and the paired differences as Markdown."""
    head = ["| sparsity | method | accuracy, % (mean +- std) |" + "".join(f" {c}, points |" for c in CONTROLS)]
    head.append("|---|---|---|" + "---|" * len(CONTROLS))
    rows = []
    for (method, sparsity, control), values in found.items():
        if control is not None:
            continue
        cells = [f"{sparsity:.0%}", method, f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f}"]
        for c in CONTROLS:
            pairs = zip(found.get((method, sparsity, c), []), values, strict=False)
            gaps = [a - b for a, b in pairs]
            cells.append(
                f"{statistics.mean(gaps):+.2f} +- {T[len(gaps)] * statistics.stdev(gaps) / len(gaps) ** 0.5:.2f}"
                if gaps
                else ""
            )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([*head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, choices=T)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    rows = table(measure(options.out, options.seeds))
    facts = environment(torch.device("cpu"))
    text = (
        f"{rows}\n\n{TRAIN.model}, {TRAIN.data} (all 1,442 training images), {TRAIN.epochs} epochs of batch {TRAIN.batch_size}, "
        f"lr {TRAIN.lr} dropped at {TRAIN.milestones}; retrained over the whole schedule from the weights that the pruning "
        f"left; seeds 0 to {options.seeds - 1} (n = {options.seeds}). {facts['cpu']}, 1 thread, torch {facts['torch']}, "
        f"{time.perf_counter() - started:.0f} s in all.\n"
    )
    print(text)
    if options.record:
        options.record.write_text(
            f"# Frankle et al.'s controls on digits\n\n    python benchmarks/frankle_ablations.py --seeds {options.seeds}\n\n{text}"
        )


if __name__ == "__main__":
    main()
