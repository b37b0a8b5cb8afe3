"""Files and folders for the user's own use, made aside and moved to their place at once, over nothing else that is there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pruning.errors import PlanError
from pruning.record import writing
from pruning.record.whole import sha256


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder on the same disk, for what :func:`settle` then moves to `path`."""
    anchor = next(folder for folder in path.absolute().parents if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=anchor, prefix=f".{path.name}.", suffix=".part") as folder:
            yield Path(folder) / path.name
    except OSError as error:
        raise PlanError(f"cannot write {path}: {error.strerror or error}") from None


def lies_there(part: Path, path: Path) -> bool:
    """Returns whether the same lies in the place of a file or folder already; raises PlanError where something else does."""
    if not path.exists():
        return False
    if path.is_dir() != part.is_dir() or contents(path) != contents(part):
        raise PlanError(f"'{path}' exists and is something else: move it away, or name another path")
    return True


def settle(part: Path, path: Path) -> None:
    """Moves a file, or a folder of files, to its place, where nothing lies."""
    for name in contents(part):
        file = part / name
        os.chmod(file, 0o666 & ~writing.umask())  # safetensors' own mode keeps others out
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    os.rename(part, path)
    writing.sync_folder(path.parent)


def contents(path: Path) -> dict[str, str]:
    """Returns {path below: SHA-256} of the files in a folder; of a file itself under an empty path."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {"" if file == path else str(file.relative_to(path)): sha256(file) for file in files}
