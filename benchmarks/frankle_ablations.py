"""Frankle et al.'s controls (2021, section 5) on digits: what do masks from before training owe to the weights they name?

    python benchmarks/frankle_ablations.py [--setting lenet-300-100 | resnet14] [--seeds 5] [--out runs] [--record FILE]

The whole training after every pruning. Each control is paired with the same method and seed without it: mean difference
of the test accuracy and its 95 % interval (Student's t). Runs that are already under --out are reused.
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

T = {3: 4.303, 4: 3.182, 5: 2.776}  # seeds -> two-sided 95 % point of Student's t
CONTROLS = ("shuffle", "reinit", "invert")
TRAINED = Retrain(technique="lr-rewind")  # from the weights that the pruning left, over the whole schedule


class Method(NamedTuple):
    """How a row prunes and trains: settings of Prune, and the phase after it; `controls` of it are measured."""

    prune: dict[str, str | int]
    retrain: Retrain = TRAINED
    controls: tuple[str, ...] = CONTROLS


class Setting(NamedTuple):
    train: Train
    sparsities: tuple[float, ...]
    methods: dict[str, Method]


METHODS = {
    "random": Method({"criterion": "random", "at_epoch": 0}, controls=()),
    "magnitude": Method({"criterion": "magnitude", "at_epoch": 0}),
    "snip": Method({"criterion": "snip", "at_epoch": 0}),
    "grasp": Method({"criterion": "grasp", "at_epoch": 0}),
    "synflow": Method({"criterion": "synflow", "at_epoch": 0}),
    "magnitude after training": Method({"criterion": "magnitude"}),
}
REWIND = 4  # steps: 1.7 % of the training, as theirs of ResNet-20
SETTINGS = {
    "lenet-300-100": Setting(
        Train(
            model="lenet-300-100", data="digits", epochs=40, batch_size=128, lr=0.1, milestones=(20, 30),
            weight_init="he-normal-fan-in", split="none",
        ),
        (0.8, 0.9, 0.95),
        METHODS,
    ),
    "resnet14": Setting(  # shortcuts, gamma and drops as theirs of ResNet-20
        Train(
            model="resnet14", model_options={"shortcut": "B", "width": 0.5}, data="digits", epochs=20, batch_size=128,
            lr=0.1, milestones=(10, 15), weight_init="he-normal-fan-in", norm_init="uniform", split="none",
            keep_steps=(REWIND,),
        ),
        (0.985,),
        METHODS
        | {
            "lottery-ticket rewinding": Method(
                {"criterion": "magnitude"}, Retrain(technique="weight-rewind", rewind_step=REWIND), controls=()
            ),
        },
    ),
}  # fmt: skip


def measure(setting: Setting, out: Path, seeds: int) -> dict[tuple[str, float, str | None], list[float]]:
    """Returns {(method, sparsity, control): test accuracies in percent, one per seed}; dense under ("dense", 0, None)."""
    found: dict[tuple[str, float, str | None], list[float]] = {}
    for seed in range(seeds):
        dense = engine.advance(setting.train.model_copy(update={"seed": seed}), None, out, device="cpu")
        found.setdefault(("dense", 0.0, None), []).append(100 * runs.read_summary(dense)["accuracy"])
        for sparsity in setting.sparsities:
            for name, method in setting.methods.items():
                for control in (None, *method.controls):
                    phase = Prune.model_validate({"sparsity": sparsity, "ablation": control, **method.prune})
                    pruned = engine.advance(phase, dense, out, device="cpu")
                    run = engine.advance(method.retrain, pruned, out, device="cpu")
                    found.setdefault((name, sparsity, control), []).append(100 * runs.read_summary(run)["accuracy"])
    return found


def table(found: dict[tuple[str, float, str | None], list[float]]) -> str:
    """Returns the accuracies and the paired differences as Markdown."""
    head = ["| sparsity | method | accuracy, % (mean +- std) |" + "".join(f" {c}, points |" for c in CONTROLS)]
    head.append("|---|---|---|" + "---|" * len(CONTROLS))
    rows = []
    for (method, sparsity, control), values in found.items():
        if control is not None:
            continue
        cells = [f"{100 * sparsity:g}%", method, f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f}"]
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
    parser.add_argument("--setting", default="lenet-300-100", choices=SETTINGS)
    parser.add_argument("--seeds", type=int, default=5, choices=T)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    setting = SETTINGS[options.setting]
    rows = table(measure(setting, options.out, options.seeds))
    facts, train = environment(torch.device("cpu")), setting.train
    extras = "".join(f", {key} {value}" for key, value in train.model_options.items())
    text = (
        f"{rows}\n\n{train.model}{extras}, {train.data} (all 1,442 training images), {train.epochs} epochs of batch "
        f"{train.batch_size}, lr {train.lr} dropped at {train.milestones}, gamma {train.norm_init}; retrained over the whole "
        f"schedule from the weights that the pruning left; seeds 0 to {options.seeds - 1} (n = {options.seeds}). "
        f"{facts['cpu']}, 1 thread, torch {facts['torch']}, {time.process_time() - started:.0f} s of the processor.\n"
    )
    print(text)
    if options.record:
        command = f"python benchmarks/frankle_ablations.py --setting {options.setting} --seeds {options.seeds}"
        options.record.write_text(f"# Frankle et al.'s controls on digits\n\n    {command}\n\n{text}")


if __name__ == "__main__":
    main()
