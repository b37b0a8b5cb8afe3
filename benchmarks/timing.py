"""How the benchmarks measure: all contenders in turn, again and again, so that what disturbs the machine disturbs all alike.

A record holds medians with their quartiles, the number of repeats, the machine and the versions; nothing is a result
without them. On a GPU times are CUDA events' after the L2 cache was overwritten. Floors are measured in the same run: on the
CPU bare loops over the same bytes (probes.cpp), on a GPU the op's bytes over the bandwidth of a copy.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
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
    """Returns {name: median, q1, q3, n} in milliseconds; a contender that spends its share of the budget (seconds; 6 at most
    on a GPU) is repeated less often, at least three times."""
    flush = None
    if device != "cpu":
        flush, budget = torch.empty(256 << 20, dtype=torch.uint8, device=device), min(budget, 6.0)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
        _once(run, device, flush)
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


def tried(name: str, make: Callable[[], Callable[[], Any]]) -> Contenders:
    """Returns {name: what `make` returns}; nothing where it or the contender fails, and says so: the others still count."""
    try:
        run = make()
        run()
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", flush=True)
        return {}
    return {name: run}


def graphed(run: Callable[[], Any]) -> Callable[[], Any]:
    """Returns the replay of a CUDA graph of the run, which was warmed up on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def copy_bandwidth(device: str) -> float:
    """Returns the bytes per second that a copy of 2 GiB on the device reads and writes, the median of nine."""
    source = torch.ones(2 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [_once(lambda: target.copy_(source), device, source[: 256 << 20]) for _ in range(10)][1:]
    return 2 * source.numel() / (statistics.median(times) / 1e3)


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
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernels": ops.backend(device),
        "instructions": ops.report()["instructions"],
    } | (_gpu(device) if device != "cpu" else {})


def _gpu(device: str) -> dict[str, Any]:
    fields = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.limit")
    torch.cuda.synchronize()
    known: dict[str, str] = {}
    if shutil.which("nvidia-smi"):
        query = [f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={torch.cuda.current_device()}"]
        told = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, check=False).stdout
        known = dict(zip(fields, (value.strip() for value in told.split(",")), strict=False))
    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "nvidia_smi": known,
        "built": ops.report()["built"],
        "copy_bytes_per_second": copy_bandwidth(device),
    }


def arguments(description: str, sizes: str, cuda_sizes: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", help=f"networks of layers.py, separated by commas; without it {sizes}")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--record", type=Path, help="append the rows to this JSON Lines file")
    options = parser.parse_args()
    options.sizes = options.sizes or (sizes if options.device == "cpu" else cuda_sizes or sizes)
    return options


class Report:
    """Prints rows as tables, and appends them, each with the machine, to the record, as they come."""

    def __init__(self, op: str, options: argparse.Namespace) -> None:
        self.about = {
            "op": op,
            "command": " ".join(sys.argv),
            "date": time.strftime("%Y-%m-%d"),
            **machine(options.device),
        }
        self.record: Path | None = options.record
        about = self.about
        where = f"{about['gpu'] or about['cpu']}, torch {about['torch']}, {about['kernels']}, load {about['load']}"
        print(f"{op} on {where}; ms", flush=True)
        if about["gpu"]:
            speed = about["copy_bytes_per_second"] / 1e12
            print(f"CUDA {about['cuda']}, {about['nvidia_smi']}; a copy moves {speed:.2f} TB/s", flush=True)

    def row(self, row: dict[str, Any], least: int = 0) -> None:
        """Takes a row; `least` is how many bytes the op must move: on a GPU every contender gets its share of that floor."""
        floor = 1e3 * least / self.about["copy_bytes_per_second"] if self.about["gpu"] and least else 0.0
        if floor:
            row = {**row, "floor_ms": floor, "floor_bytes": least}
        where = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("times", "memory_mb"))
        print(f"\n{where}")
        for name, t in sorted(row["times"].items(), key=lambda item: item[1]["median"]):
            memory = f"  +{row['memory_mb'][name]:.0f} MB" if name in row.get("memory_mb", {}) else ""
            share = f"  {t['median'] / floor:6.2f}x floor" if floor else ""
            print(f"  {name:34} {t['median']:10.4f}  [{t['q1']:.4f}, {t['q3']:.4f}]  n={t['n']}{share}{memory}")
        sys.stdout.flush()
        if self.record:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with self.record.open("a") as out:
                out.write(json.dumps({**self.about, **row}) + "\n")


def configurations(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Returns (network, threads) for every combination asked for; threads do not matter on a GPU."""
    threads = [int(t) for t in options.threads.split(",")] if options.device == "cpu" else [1]
    return [(size, t) for size in options.sizes.split(",") for t in threads]
