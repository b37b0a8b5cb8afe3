"""What a result depends on beside its settings: versions, device, driver, kernels, the command line."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from pruning import ops
from pruning.plan import SCHEMA


def environment(device: torch.device) -> dict[str, Any]:
    """Returns what a result depends on beside its settings: command line, versions, device, driver, kernel backend."""
    from pruning import __version__

    record: dict[str, Any] = {
        "schema": SCHEMA,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "backend": ops.backend(device),
    }
    if device.type == "cuda":
        record |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "driver": _driver()}
    return record


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _commit() -> str | None:
    """Returns the commit of the package's own checkout, or None where it is installed without one."""
    own = Path(__file__).resolve().parents[2]  # a repository around site-packages is somebody else's
    top = _output(["git", "-C", str(own), "rev-parse", "--show-toplevel"])
    if top is None or Path(top).resolve() != own or not (own / "csrc").is_dir():
        return None
    return _output(["git", "-C", str(own), "rev-parse", "HEAD"])


def _driver() -> str | None:
    return _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"])


def _output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
