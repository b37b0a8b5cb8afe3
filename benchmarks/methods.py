"""BIMP against pruning during training under one budget of epochs, on digits: Zimmer et al.'s Table 2 on a small scale.

    python benchmarks/methods.py [--out runs] [--only gmp dpf] [--record benchmarks/results/DATE-methods-digits.md]

Every method gets EPOCHS epochs. Of those that take a goal, and of BIMP, the weight decay is chosen from DECAYS by the
validation accuracy of seed 0 at TUNED_AT. The others' one driving setting is searched for, TRIALS values at most, until
the mean sparsity over the seeds meets the goal. Runs that are already under --out are reused.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from pruning import engine, ops
from pruning.plan import Iterate, Plan, PlanError, Train, make
from pruning.record import runs
from pruning.study import compare, search
from pruning.training.methods import METHODS as TABLE

EPOCHS, SEEDS, GOALS, TUNED_AT = 20, (0, 1, 2), (0.9, 0.95, 0.99), 0.95
DECAYS = (5e-4, 5e-3, 5e-2)
TRIALS = 12
METHODS: dict[str, dict[str, Any]] = {
    "bimp": {},
    "gmp": {"events": 9, "mode": "soft"},
    "gsm": {"rank": "all"},
    "dpf": {"events": 9},
    "dnw": {"rate": "layer"},
    "dnw-global": {"rate": "global"},
    "lc": {"rank": "all"},
    "lc-original": {"alternations": 9, "mu": 1e-3, "growth": 1.8},
    "str": {"s_init": -100.0, "threshold_decay": 0.05},
    "cs": {"beta": 300.0},
    "cs, by l1": {"beta": 300.0, "l1": 1e-6},
    "dst": {"alpha": 3e-3},
    "dst, reset at 0": {"alpha": 3e-3, "reset_at": 0.0},
}


BY = {"str": "threshold_decay", "cs, by l1": "l1"}  # of the others the first that drives it


def method_of(name: str) -> str:
    """Returns the method of a row."""
    return name.removesuffix("-global").partition(",")[0]


def plan(name: str, decay: float) -> Plan:
    """Returns the method's plan of EPOCHS epochs: BIMP trains for half of them and shares the rest between two cycles."""
    common = {
        "model": "lenet-5", "data": "digits", "batch_size": 64, "lr": 0.05, "schedule": "linear", "nesterov": True,
        "weight_decay": decay, "keep_epochs": (),
    }  # fmt: skip
    if name == "bimp":
        cycles = Iterate(
            sparsity=TUNED_AT, cycles=2, budget=EPOCHS - EPOCHS // 2, fresh_optimizer=True,
            prune={"recalibrate": "one-pass"}, retrain={"technique": "lr-rewind", "schedule": "allr"},
        )  # fmt: skip
        return make(Plan, {"name": name, "phases": [Train(**common, epochs=EPOCHS // 2), *cycles.phases()]})
    method = method_of(name)
    goal = {} if TABLE[method].drives else {"sparsity": TUNED_AT}
    train = Train(**common, epochs=EPOCHS, method=method, method_options=METHODS[name], **goal)
    return make(Plan, {"name": name, "phases": [train]})


def tuned(name: str, out: Path) -> Plan:
    """Returns the plan with the weight decay whose validation accuracy is best; of equal ones the smallest."""
    if TABLE[method_of(name)].drives:
        return plan(name, DECAYS[0])

    def score(decay: float) -> float:
        try:
            return float(runs.read_summary(engine.run(plan(name, decay), out, device="cpu")[-1])["val_accuracy"])
        except PlanError:  # diverged
            return -1.0

    return plan(name, max(DECAYS, key=score))


def measure(name: str, out: Path) -> list[dict[str, Any]]:
    """Returns a row per goal."""
    chosen = tuned(name, out)
    rows = []
    for goal in GOALS:
        tried: list[search.Trial] = []

        def report(plan: Plan, goal: float, trial: search.Trial, tried: list[search.Trial] = tried) -> None:
            tried.append(trial)
            print(
                f"{plan.name} {goal:.0%}: {trial.value:g} -> {trial.sparsity:.4f}, {len(trial.runs)} seeds", flush=True
            )

        (row,) = compare.compare(
            [chosen], [goal], SEEDS, out, trials=TRIALS, by=BY.get(name), report=report, device="cpu"
        )
        rows.append({**row, "decay": chosen.train.weight_decay, "tried": tried})
        print(f"{name} {goal:.0%}: {row['accuracy']} {row['sparsity']}", flush=True)
    return rows


def cell(spread: compare.Spread | None, factor: float, digits: int) -> str:
    if spread is None:
        return "-"
    return f"{factor * spread.middle:.{digits}f} +- {factor * (spread.deviation or 0):.{digits}f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as Markdown."""
    lines = [
        "| method | goal, % | weight decay | test accuracy, % | speedup | sparsity reached, % | stability | trials |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        start = f"| {row['plan']} | {100 * row['goal']:g} | {row['decay']:g} |"
        cells = [cell(row["accuracy"], 100, 2), cell(row["speedup"], 1, 1), cell(row["sparsity"], 100, 2)]
        trials = ""
        if row["tried"]:
            far = " (exhausted)" * (abs(row["sparsity"].middle - row["goal"]) > search.TOLERANCE + 1e-12)
            trials = f"{len(row['tried'])}{far}, {sum(len(trial.runs) for trial in row['tried'])} trainings"
        lines.append(f"{start} {' | '.join([*cells, cell(row['stability'], 1, 3)])} | {trials} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--only", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = plan("bimp", DECAYS[0]).train.model_copy(update={"epochs": EPOCHS})
    dense = []
    for seed in SEEDS:
        run = engine.advance(train.model_copy(update={"seed": seed}), None, options.out, device="cpu")
        dense.append(100 * runs.read_summary(run)["accuracy"])
    rows = [row for name in options.only for row in measure(name, options.out)]
    where = (
        f"LeNet-5 on digits, {EPOCHS} epochs in all, batch 64, linear rate from .05, Nesterov momentum .9; seeds {SEEDS} "
        f"(n = {len(SEEDS)}), mean +- sample standard deviation. Dense, {EPOCHS} epochs: {statistics.mean(dense):.2f} +- "
        f"{statistics.stdev(dense):.2f} %. torch {torch.__version__}, 1 thread, {platform.machine()} CPU, {ops.backend('cpu')}."
    )
    text = f"{table(rows)}\n\n{where}\n"
    print(text)
    if options.record:
        options.record.write_text(
            f"# BIMP and pruning during training under one budget\n\n    python benchmarks/methods.py\n\n{text}"
        )


if __name__ == "__main__":
    main()
