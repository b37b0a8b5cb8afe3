"""How the benchmarks measure: all contenders in turn, again and again, so that what disturbs the machine disturbs all alike.

A record holds medians with their quartiles, the number of repeats, the machine and the versions; nothing is a result
without them. On a GPU times are CUDA events' after the L2 cache was overwritten. Floors are bare loops over the same
bytes (probes.cpp on the CPU, a copy on the GPU), measured in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning import ops

Contenders = dict[str, Callable[[], Any]]


def interleaved(contenders: Contenders, device: str, repeats: int, budget: float = 60.0) -> dict[str, dict[str, float]]:
    """Returns {name: median, q1, q3, n} in milliseconds; a slow contender is repeated less often, at least three times."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=device) if device != "cpu" else None
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name, run in contenders.items():
        run()
        times[name] = [_once(run, device, flush)][:0]
    for turn in range(repeats):
        for name, run in contenders.items():
            spent = sum(times[name]) / 1e3
            if turn < 3 or spent < budget / len(contenders):
                times[name].append(_once(run, device, flush))
    return {name: _summary(values) for name, values in times.items()}


def _once(run: Callable[[], Any], device: str, flush: Tensor | None) -> float:
    if flush is None:
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    flush.zero_()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def _summary(values: list[float]) -> dict[str, float]:
    q1, median, q3 = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": median, "q1": q1, "q3": q3, "min": min(values), "n": len(values)}


class Probes:
    """The bare loops of probes.cpp, compiled for this machine."""

    def __init__(self) -> None:
        source = Path(__file__).with_name("probes.cpp")
        library = Path(tempfile.gettempdir()) / f"prune-probes-{os.getuid()}-{int(source.stat().st_mtime)}.so"
        if not library.exists():
            flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-std=c++20", "-fopenmp", "-shared", "-fPIC"]
            subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))

    def loop(
        self, name: str, like: Sequence[Tensor], *arrays: Sequence[Tensor], last: float | None = None
    ) -> Callable[[], Any]:
        """Returns a call of the probe over the arrays of tensors, sized as `like`, with torch's number of threads.

        The call keeps the tensors alive, of which the probe has the addresses alone.
        """
        sizes = (ctypes.c_int64 * len(like))(*[t.numel() for t in like])
        pointers = [(ctypes.c_void_p * len(a))(*[t.data_ptr() for t in a]) for a in arrays]
        extra = [] if last is None else [ctypes.c_float(last)]
        function = getattr(self.library, name)
        count = ctypes.c_int64(len(like))
        return lambda held=arrays: function(count, sizes, ctypes.c_int(torch.get_num_threads()), *pointers, *extra)


def extra_memory(run: Callable[[], Any]) -> float:
    """Returns by how many MB one call raises this process's peak resident memory (Linux); 0 where it cannot be told."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        clear.write_text("5")
    except OSError:
        return 0.0

    def field(name: str) -> float:
        return next(float(line.split()[1]) / 1e3 for line in status.read_text().splitlines() if line.startswith(name))

    before = field("VmRSS:")
    run()
    return field("VmHWM:") - before


def machine(device: str) -> dict[str, Any]:
    """Returns what a number is worth nothing without: hardware, load, versions."""
    cpu = next(
        (l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in l), "?"
    )
    gpu = torch.cuda.get_device_name() if device != "cpu" else None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": gpu,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernels": ops.backend(device),
        "instructions": ops.report()["instructions"],
    }


def arguments(description: str, sizes: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", default=sizes, help="networks of layers.py, separated by commas")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--record", type=Path, help="append the rows to this JSON Lines file")
    return parser.parse_args()


def report(op: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Prints the rows as a table and appends them, each with the machine, to the record."""
    about = {"op": op, "command": " ".join(sys.argv), "date": time.strftime("%Y-%m-%d"), **machine(options.device)}
    print(
        f"{op} on {about['gpu'] or about['cpu']}, torch {about['torch']}, {about['kernels']}, load {about['load']}; ms"
    )
    for row in rows:
        where = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("times", "memory_mb"))
        print(f"\n{where}")
        for name, t in sorted(row["times"].items(), key=lambda item: item[1]["median"]):
            memory = f"  +{row['memory_mb'][name]:.0f} MB" if name in row.get("memory_mb", {}) else ""
            print(f"  {name:34} {t['median']:10.3f}  [{t['q1']:.3f}, {t['q3']:.3f}]  n={t['n']}{memory}")
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        with options.record.open("a") as out:
            for row in rows:
                out.write(json.dumps({**about, **row}) + "\n")


def configurations(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Returns (network, threads) for every combination asked for; threads do not matter on a GPU."""
    threads = [int(t) for t in options.threads.split(",")] if options.device == "cpu" else [1]
    return [(size, t) for size in options.sizes.split(",") for t in threads]
