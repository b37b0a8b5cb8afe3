"""Files written whole or not at all, whatever ends the process or the power."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruning.errors import PlanError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success flushes it to disk and renames it to `path`, else removes it."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise PlanError(f"cannot write {path}: {error.strerror}") from None
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o666 & ~umask())  # mkstemp's own mode keeps others out
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        raise PlanError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):  # the next process to hold the folder sweeps it out
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def faults_named(folder: Path) -> Iterator[None]:
    """Turns an OSError about a file in `folder`, as a full or broken disk raises it, into a PlanError that names the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not Path(os.fsdecode(error.filename)).is_relative_to(folder):
            raise
        raise PlanError(f"cannot read or write {os.fsdecode(error.filename)}: {error.strerror}") from None


def sync_folder(folder: Path) -> None:
    """Has the folder's names reach the disk: after a power loss a renamed file is the old or the new one, not none."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    """Returns the permissions that files of this process are made without."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all; NaN and infinities are refused."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
