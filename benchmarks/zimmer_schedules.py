"""Zimmer et al.'s comparison of retraining schedules (2023, section 3.1, Table 1): one shot, short budgets.

    python benchmarks/zimmer_schedules.py [--setting lenet-300-100 | resnet8] [--seeds 5] [--out runs] [--data-dir DIR]
                                          [--record benchmarks/results/DATE-zimmer-schedules.md]

A network pruned by global magnitude and retrained for 2 to 10 % of the training with each schedule. "lenet-300-100" is on
digits; "resnet8" is on images that small_cifar.py makes of DIR/cifar-10-batches-bin. Runs that are already under --out
are reused. Prints mean and sample standard deviation of the test accuracy; the best mean is bold.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch

from pruning import engine
from pruning.plan import Prune, Retrain, Train
from pruning.record import runs
from pruning.record.environment import environment

T = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # seeds -> two-sided 95 % point of Student's t
SMALL_CIFAR = f"{Path(__file__).with_name('small_cifar.py')}:load"


class Setting(NamedTuple):
    """`cells` are (sparsity, epochs of retraining)."""

    train: Train
    images: str
    cells: tuple[tuple[float, int], ...]
    schedules: tuple[str, ...]


SETTINGS = {
    "lenet-300-100": Setting(
        Train(  # drops at 45 % and 90 % of the training, as theirs for CIFAR-10
            model="lenet-300-100", data="digits", epochs=100, batch_size=128, lr=0.1, nesterov=True, milestones=(45, 90),
            split="none",
        ),
        "digits (all 1,442 training images)",
        tuple((sparsity, epochs) for sparsity in (0.5, 0.7, 0.9, 0.95, 0.98) for epochs in (2, 5, 10)),
        ("ft", "lrw", "slr", "clr", "llr", "allr", "allr-d1", "allr-d2"),
    ),
    "resnet8": Setting(  # no lrw: the last drop lies four epochs before the end, so it is ft step for step
        Train(
            model="resnet8", model_options={"width": 0.5}, data=SMALL_CIFAR, data_options={"padding": 2}, epochs=40,
            batch_size=64, lr=0.1, nesterov=True, milestones=(18, 36), weight_decay=5e-4, augment="crop-flip",
            normalize="channel", split="none",
        ),
        "CIFAR-10 at 16x16 pixels (3,000 training images, cropped with 2 pixels of padding and flipped; 5,000 test images)",
        ((0.5, 1), (0.9, 2), (0.95, 2), (0.95, 4)),
        ("ft", "slr", "llr", "allr"),
    ),
}  # fmt: skip

Found = dict[tuple[float, int, str], list[float]]


def measure(setting: Setting, out: Path, seeds: int, data_dir: Path | None) -> tuple[list[float], Found]:
    """Returns (dense test accuracies, {(sparsity, epochs, schedule): test accuracies}) in percent, one per seed."""
    dense: list[float] = []
    found: Found = {}
    for seed in range(seeds):
        where = {"device": "cpu", "data_dir": data_dir}
        trained = engine.advance(setting.train.model_copy(update={"seed": seed}), None, out, **where)
        dense.append(100 * runs.read_summary(trained)["accuracy"])
        for sparsity, epochs in setting.cells:
            pruned = engine.advance(Prune(sparsity=sparsity), trained, out, **where)
            if len(found.setdefault((sparsity, 0, "not retrained"), [])) == seed:
                found[sparsity, 0, "not retrained"].append(100 * runs.read_summary(pruned)["accuracy"])
            for name in setting.schedules:
                phase = Retrain.model_validate(
                    {"technique": "fine-tune", "schedule": name, "epochs": epochs, "optimizer_state": "reset"}
                )
                run = engine.advance(phase, pruned, out, **where)
                found.setdefault((sparsity, epochs, name), []).append(100 * runs.read_summary(run)["accuracy"])
    return dense, found


def table(setting: Setting, found: Found) -> str:
    """Returns one row per sparsity and budget as Markdown."""
    names = setting.schedules
    head = ["| sparsity | epochs |" + "".join(f" {name} |" for name in names), "|---|---|" + "---|" * len(names)]
    rows = []
    for sparsity, epochs in setting.cells:
        means = [statistics.mean(found[sparsity, epochs, name]) for name in names]
        cells = []
        for name, mean in zip(names, means, strict=True):
            number = f"**{mean:.1f}**" if mean == max(means) else f"{mean:.1f}"
            cells.append(f"{number} +- {statistics.stdev(found[sparsity, epochs, name]):.1f}")
        rows.append(f"| {sparsity:.0%} | {epochs} | " + " | ".join(cells) + " |")
    return "\n".join([*head, *rows])


PAIRS = (("lrw", "ft"), ("slr", "ft"), ("llr", "slr"), ("allr", "slr"), ("allr", "llr"))


def differences(setting: Setting, found: Found) -> str:
    """Returns paired differences of schedules, mean and 95 % interval (Student's t), as Markdown."""
    compared = [(a, b) for a, b in PAIRS if {a, b} <= {*setting.schedules}]
    head = [
        "| sparsity | epochs |" + "".join(f" {a} - {b} |" for a, b in compared),
        "|---|---|" + "---|" * len(compared),
    ]
    rows = []
    for sparsity, epochs in setting.cells:
        cells = []
        for a, b in compared:
            pairs = zip(found[sparsity, epochs, a], found[sparsity, epochs, b], strict=True)
            gaps = [one - other for one, other in pairs]
            half = T[len(gaps)] * statistics.stdev(gaps) / len(gaps) ** 0.5
            cells.append(f"{statistics.mean(gaps):+.2f} +- {half:.2f}")
        rows.append(f"| {sparsity:.0%} | {epochs} | " + " | ".join(cells) + " |")
    return "\n".join([*head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", default="lenet-300-100", choices=SETTINGS)
    parser.add_argument("--seeds", type=int, default=5, choices=T)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    setting = SETTINGS[options.setting]
    dense, found = measure(setting, options.out, options.seeds, options.data_dir)
    facts, train = environment(torch.device("cpu")), setting.train
    whole = {sparsity: found[sparsity, 0, "not retrained"] for sparsity, _ in setting.cells}
    before = ", ".join(f"{s:.0%}: {statistics.mean(values):.1f}" for s, values in whole.items())
    extras = "".join(f", {key} {value}" for key, value in train.model_options.items())
    text = (
        f"{table(setting, found)}\n\nIn points, paired by seed:\n\n{differences(setting, found)}\n\n"
        f"Test accuracy in percent, mean +- sample standard deviation of seeds 0 to {options.seeds - 1} "
        f"(n = {options.seeds}). {train.model}{extras}, {setting.images}, {train.epochs} epochs of batch {train.batch_size}, lr "
        f"{train.lr} dropped at {train.milestones}, weight decay {train.weight_decay:g}; dense "
        f"{statistics.mean(dense):.2f} +- {statistics.stdev(dense):.2f}; pruned and not retrained {before}. "
        f"{facts['cpu']}, 1 thread, torch {facts['torch']}, {time.process_time() - started:.0f} s of the processor.\n"
    )
    print(text)
    if options.record:
        command = f"python benchmarks/zimmer_schedules.py --setting {options.setting} --seeds {options.seeds}"
        options.record.write_text(f"# Retraining schedules, {options.setting}\n\n    {command}\n\n{text}")


if __name__ == "__main__":
    main()
