"""Throughput of training with each method relative to plain training, side by side (Zimmer et al.'s column images/s).

    python benchmarks/methods_throughput.py [--model resnet20] [--batch 128] [--width 1.0] [--rounds 40] [--device auto]

A round is one step of every method in turn, back and forth, so that all meet the same machine; a ratio is of the plain step
of the same round. What a method does between two steps is timed apart, so that its events, which a few steps hold here, count
as often as in a training: GMP's and DPF's 20 and LC's 40 in RECIPE_STEPS, DPF's drawing of masks every 16 steps. On the CPU
the clock counts the process's own time, so that other processes disturb less. Data are random: what a step costs does not
depend on them. Checked at the end: every method's masks reach the goal.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pruning import models, ops
from pruning.deciding import decision
from pruning.engine.fitting import make_optimizer
from pruning.plan import Train
from pruning.training.methods import METHODS, for_training
from pruning.training.methods.base import Method
from pruning.training.methods.dpf import DPF
from pruning.training.methods.gmp import GMP
from pruning.training.methods.lc_original import LCOriginal

SPARSITY = 0.9
RECIPE_STEPS = 200 * 352  # 200 epochs of CIFAR-10's 45,000 images in batches of 128: zimmer-resnet56-cifar10-*
CASES: dict[str, dict[str, Any]] = {
    "plain": {"method": "none"},
    "bimp (retraining)": {"method": "none"},
    "gmp, hard": {"method": "gmp", "method_options": {"events": 8, "mode": "hard"}},
    "gmp, soft": {"method": "gmp", "method_options": {"events": 8, "mode": "soft"}},
    "gsm": {"method": "gsm"},
    "dpf": {"method": "dpf", "method_options": {"events": 8, "refresh": 4}},
    "dnw, per layer": {"method": "dnw"},
    "dnw, global": {"method": "dnw", "method_options": {"rate": "global"}},
    "lc": {"method": "lc"},
    "lc-original": {"method": "lc-original", "method_options": {"alternations": 8}},
    "str": {"method": "str", "method_options": {"s_init": -5.0}},
    "cs": {"method": "cs"},
    "dst": {"method": "dst"},
}
EVENTS = {  # of one step of the recipe
    "gmp, hard": 20 / RECIPE_STEPS,
    "gmp, soft": 20 / RECIPE_STEPS,
    "dpf": 20 / RECIPE_STEPS + 1 / 16,
    "lc-original": 40 / RECIPE_STEPS,
}
FIRST = 4  # untimed steps, after which the first event of all has been


class Contender:
    """One method on its network, stepped one by one."""

    def __init__(self, case: str, options: argparse.Namespace, device: torch.device, total: int) -> None:
        goal = {"sparsity": SPARSITY} if METHODS[CASES[case]["method"]].goal else {}
        train = Train(
            model=options.model,
            data="cifar10",
            epochs=1,
            batch_size=options.batch,
            nesterov=True,
            **CASES[case],
            **goal,
        )
        width = {} if options.width == 1 else {"width": options.width}
        self.network = models.build(options.model, (3, 32, 32), 10, options=width, seed=0).to(device)
        self.method: Method = for_training(train, total)
        if case.startswith("bimp"):
            self.method = Method(decision.Decision(sparsity=SPARSITY).decide(self.network))
        self.optimizer = make_optimizer(self.network, train, self.method.attach(self.network))
        self.method.bind(self.network, self.optimizer)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(options.batch, 3, 32, 32, generator=generator).to(device)
        self.y = torch.randint(10, (options.batch,), generator=generator).to(device)
        self.events = self._events(total)
        self.done = 0
        self.steps: list[float] = []  # seconds of each timed step but for its event
        self.extra: list[float] = []  # seconds that after_step took more at an event
        self._after: list[float] = []

    def _events(self, total: int) -> set[int]:
        """Returns the steps at whose end the method draws masks."""
        if isinstance(self.method, GMP):
            return {step - 1 for step in self.method.sparsities}
        if isinstance(self.method, DPF):
            refresh, first = self.method.options.refresh, self.method.events[0]
            return {step - 1 for step in range(first, total + 1) if step % refresh == 0 or step in self.method.events}
        return {step - 1 for step in self.method.ends} if isinstance(self.method, LCOriginal) else set()

    def step(self, now: Callable[[], float], timed: bool) -> None:
        """Takes one step."""
        started = now()
        loss = F.cross_entropy(self.network(self.x), self.y)
        if (extra := self.method.penalty()) is not None:
            loss = loss + extra
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.method.after_backward(self.done)
        self.optimizer.step()
        moved = now()
        self.method.after_step(self.done)
        ended = now()
        if timed and self.done in self.events:
            self.extra.append(ended - moved)
            self.steps.append(moved - started + (statistics.median(self._after) if self._after else 0.0))
        elif timed:
            self._after.append(ended - moved)
            self.steps.append(ended - started)
        self.done += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    total = options.rounds + FIRST
    contenders = {case: Contender(case, options, device, total) for case in CASES}
    for turn in range(total):
        for contender in list(contenders.values())[:: 1 if turn % 2 else -1]:
            contender.step(now, timed=turn >= FIRST)
    for case, contender in contenders.items():
        masks = contender.method.finish()
        if METHODS[CASES[case]["method"]].goal:
            assert masks is not None
            assert abs(masks.sparsity - SPARSITY) < 1e-3, (case, masks.sparsity)
    plain = contenders["plain"].steps
    unit = "ms" if device.type == "cuda" else "ms of the process's own time"
    lines = [
        f"| method | step, {unit}, median | plain / step, median | quartiles | event, ms, median (n) | in the recipe |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for case, contender in contenders.items():
        ratios = [p / v for p, v in zip(plain, contender.steps, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cost = statistics.median(contender.extra) if contender.extra else 0.0
        event = f"{1e3 * cost:.2f} ({len(contender.extra)})" if contender.extra else ""
        share = cost * EVENTS.get(case, 0.0) / statistics.median(plain)
        lines.append(
            f"| {case} | {1e3 * statistics.median(contender.steps):.1f} | {middle:.3f} | {low:.3f}-{high:.3f} | {event} | "
            f"{1 / (1 / middle + share):.3f} |"
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, 1 thread"
    text = "\n".join(lines) + (
        f"\n\n{options.model}, width {options.width:g}, batch {options.batch}, 3x32x32, float32; {options.rounds} rounds (n). "
        f"{name}, torch {torch.__version__}, {ops.backend(str(device))}.\n"
    )
    print(text)
    if options.record:
        options.record.write_text(f"# Throughput of the methods\n\n    python {' '.join(sys.argv)}\n\n{text}")


if __name__ == "__main__":
    main()
