"""`prune doctor`: what is installed, what is built, and why not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

from pruning import __version__

from . import options, screen_tables
from .output import emit, emit_json
from .screen import Screen

PACKAGES = ("torch", "numpy", "safetensors", "pydantic", "typer", "rich")
EXTRAS = {
    "demo": ("scikit-learn",),
    "tensorboard": ("tensorboard",),
    "plot": ("matplotlib",),
    "build": ("ninja", "pybind11"),
}


def doctor(json: options.Json = False, quiet: options.Quiet = False, debug: options.Debug = False) -> None:
    """Show what is installed, which devices there are, which kernels are loaded, and why not.

    Put its --json into a bug report.
    """
    from pruning import ops
    from pruning.data.places import data_folder

    report: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": {name: {package: _version(package) for package in packages} for name, packages in EXTRAS.items()},
        "devices": _devices(),
        "kernels": ops.report(),
        "data_dir": str(data_folder(None).resolve()),
    }
    if json:
        emit_json(report)
        return
    screen = Screen(quiet=quiet)
    main = {"pruning": __version__, "python": f"{report['python']}, {sys.executable}", "platform": report["platform"]}
    screen.table(*screen_tables.pairs("Versions", main | report["packages"]))
    screen.table(*screen_tables.pairs("Devices", report["devices"]))
    screen.table(*screen_tables.pairs("Kernels", _kernels(report["kernels"])))
    screen.table(
        *screen_tables.pairs(
            "Extras (pip install 'pruning[NAME]')", {n: _installed(p) for n, p in report["extras"].items()}
        )
    )
    screen.table(*screen_tables.pairs("Data", {"folder, unless --data-dir names another": report["data_dir"]}))
    backends = ", ".join(f"{device}: {ops.backend(device)}" for device in report["devices"])
    emit(f"pruning {__version__}, torch {report['packages']['torch']}, {backends}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed(packages: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" if version else f"{name} missing" for name, version in packages.items())


def _devices() -> dict[str, str]:
    import torch

    found = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = (
            f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute capability {about.major}.{about.minor}"
        )
    return found


def _kernels(report: dict[str, Any]) -> dict[str, str]:
    """Returns a line for each device: what computes the ops there, and from which library or why not from one."""
    lines = {}
    for device in ("cpu", "cuda"):
        entry = report[device]
        lines[device] = f"{entry['backend']} ({entry.get('reason') or entry.get('library') or 'loaded'})"
    if report.get("built"):
        lines["built with"] = ", ".join(f"{key} {value}" for key, value in report["built"].items() if value)
    if report.get("instructions"):
        lines["instructions"] = str(report["instructions"])
    return lines
