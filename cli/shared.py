"""The options that train, prune, retrain, iterate and run end with, declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from . import options


@dataclass(frozen=True)
class Shared:
    """What those options were given, of a command that goes on from a run."""

    out: options.OutBeside = None
    device: options.Device = "auto"
    data_dir: options.DataDir = None
    download: options.Download = False
    trust_code: options.TrustCode = False
    dry_run: options.DryRun = False
    track: options.Track = None
    json: options.Json = False
    quiet: options.Quiet = False
    debug: options.Debug = False

    @property
    def where(self) -> dict[str, Any]:
        """Returns the engine's keywords device, data_dir, download and trust_code."""
        return {key: getattr(self, key) for key in ("device", "data_dir", "download", "trust_code")}


@dataclass(frozen=True)
class SharedAnew(Shared):
    """The same, of a command that begins anew."""

    out: options.Out = Path("runs")


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with an option for each field of its last parameter, a :class:`Shared`, in that parameter's place."""
    hints = get_type_hints(command, include_extras=True)
    *own, last = inspect.signature(command).parameters.values()
    kind = hints[last.name]
    declared = get_type_hints(kind, include_extras=True)
    ends = [inspect.Parameter(f.name, last.kind, default=f.default, annotation=declared[f.name]) for f in fields(kind)]

    @functools.wraps(command)
    def extended(**given: Any) -> None:
        values = {f.name: given.pop(f.name) for f in fields(kind)}
        command(**given, **{last.name: kind(**values)})

    starts = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
    extended.__signature__ = inspect.Signature([*starts, *ends])  # type: ignore[attr-defined]
    extended.__annotations__ = {p.name: p.annotation for p in [*starts, *ends]}
    return extended
