"""Standard output: the result and nothing else."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from pruning.plan import PlanError


def emit(line: str | Path) -> None:
    """Writes one line to standard output, at once."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PlanError(f"cannot write to standard output: {error.strerror}") from None


def emit_json(value: dict[str, Any]) -> None:
    """Writes one JSON object on one line; NaN and infinities, which JSON lacks, become null."""
    emit(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
