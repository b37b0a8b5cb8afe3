"""Throughput of training with each method relative to plain training, side by side (Zimmer et al.'s column images/s).

    python benchmarks/methods_throughput.py [--model resnet56] [--batch 128] [--width 1.0] [--rounds 12] [--device auto]

Every round runs a few steps of every method in turn, so that all meet the same machine; the ratio of a round is of the
plain training in that round. On the CPU the clock counts the process's own time, so that other processes disturb less. Data are
random: what a step costs does not depend on them. Checked first: every method's masks reach the goal.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pruning import api, models, ops
from pruning.engine.fitting import make_optimizer
from pruning.methods import Method, for_training
from pruning.plan import GOAL_METHODS, Train

SPARSITY = 0.9
CASES: dict[str, dict[str, Any]] = {
    "plain": {"method": "none"},
    "bimp (retraining)": {"method": "none"},
    "gmp, hard": {"method": "gmp", "method_options": {"events": 3, "mode": "hard"}},
    "gmp, soft": {"method": "gmp", "method_options": {"events": 3, "mode": "soft"}},
    "gsm": {"method": "gsm"},
    "dpf": {"method": "dpf", "method_options": {"events": 3}},
    "dnw, per layer": {"method": "dnw"},
    "dnw, global": {"method": "dnw", "method_options": {"rate": "global"}},
    "lc": {"method": "lc"},
    "lc-original": {"method": "lc-original", "method_options": {"alternations": 3}},
    "str": {"method": "str", "method_options": {"s_init": -5.0}},
    "cs": {"method": "cs"},
    "dst": {"method": "dst"},
}


def prepare(
    case: str, options: argparse.Namespace, device: torch.device, total: int
) -> tuple[Callable[[int], None], Method]:
    """Returns a function that runs training steps, given how many, and the method."""
    goal = {"sparsity": SPARSITY} if CASES[case]["method"] in GOAL_METHODS else {}
    train = Train(
        model=options.model, data="cifar10", epochs=1, batch_size=options.batch, nesterov=True, **CASES[case], **goal
    )
    network = models.build(
        options.model, (3, 32, 32), 10, options={} if options.width == 1 else {"width": options.width}, seed=0
    ).to(device)
    method: Method = for_training(train, total)
    if case.startswith("bimp"):
        method = Method(api.decide(network, "magnitude", 1 - SPARSITY))
    optimizer = make_optimizer(network, train, method.attach(network))
    method.bind(network, optimizer)
    x = torch.randn(options.batch, 3, 32, 32, device=device)
    y = torch.randint(10, (options.batch,), device=device)
    done = 0

    def steps(n: int) -> None:
        nonlocal done
        for _ in range(n):
            loss = F.cross_entropy(network(x), y)
            if (extra := method.penalty()) is not None:
                loss = loss + extra
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            method.after_backward(done)
            optimizer.step()
            method.after_step(done)
            done += 1

    return steps, method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    total = (options.rounds + 1) * options.steps
    prepared = {case: prepare(case, options, device, total) for case in CASES}
    for run, _ in prepared.values():
        run(options.steps)
    rates: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case, (run, _) in prepared.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = clock()
            run(options.steps)
            if device.type == "cuda":
                torch.cuda.synchronize()
            rates[case].append(options.steps * options.batch / (clock() - started))
    for case, (_, method) in prepared.items():
        masks = method.finish()
        if CASES[case]["method"] in GOAL_METHODS:
            assert masks is not None
            assert abs(masks.sparsity - SPARSITY) < 1e-3, (case, masks.sparsity)
    unit = "images per second" if device.type == "cuda" else "images per second of the process's own time"
    lines = [f"| method | {unit}, median | relative to plain, median | quartiles |", "|---|---:|---:|---:|"]
    for case, values in rates.items():
        ratios = [v / p for v, p in zip(values, rates["plain"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {case} | {statistics.median(values):.0f} | {statistics.median(ratios):.3f} | {low:.3f}-{high:.3f} |"
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, 1 thread"
    text = "\n".join(lines) + (
        f"\n\n{options.model}, width {options.width:g}, batch {options.batch}, 3x32x32, float32; {options.rounds} rounds of "
        f"{options.steps} steps. {name}, torch {torch.__version__}, {ops.backend(str(device))}.\n"
    )
    print(text)
    if options.record:
        options.record.write_text(
            f"# Throughput of the methods\n\n    python benchmarks/methods_throughput.py\n\n{text}"
        )


if __name__ == "__main__":
    main()
