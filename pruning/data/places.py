"""Where a data set's files lie, and what is said where they do not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pruning.plan import PlanError


@dataclass(frozen=True)
class Layout:
    """One way in which a data set is distributed: its folder's usual names, and the files in it."""

    folders: tuple[str, ...]
    files: tuple[str, ...]


def data_folder(data_dir: Path | str | None) -> Path:
    """Returns `data_dir`, or the folder that the environment's PRUNE_DATA names, or ./data."""
    return Path(data_dir or os.environ.get("PRUNE_DATA") or "data").expanduser()


def look(root: Path, layouts: Sequence[Layout]) -> tuple[Layout, list[Path]] | None:
    """Returns the first layout that lies in the folder or in one of its usual subfolders, and its files' paths, or None.

    A file may be compressed as NAME.gz.
    """
    for layout in layouts:
        for folder in (*(root / sub for sub in layout.folders), root):
            found = [path for file in layout.files if (path := _present(folder, file)) is not None]
            if len(found) == len(layout.files):
                return layout, found
    return None


def find(name: str, data_dir: Path | str | None, layouts: Sequence[Layout], how: str) -> tuple[Layout, list[Path]]:
    """Returns what :func:`look` finds in the data folder; PlanError says what is expected where, and `how` to get it."""
    root = data_folder(data_dir)
    if (found := look(root, layouts)) is not None:
        return found
    wanted = " or ".join(f"{_summary(layout.files)} in {root / layout.folders[0]}" for layout in layouts)
    raise PlanError(
        f"data set '{name}' is not in {root}{_lacking(root, layouts)}: expected {wanted}, or in {root} itself; "
        f"--download fetches it there (extra 'vision'), or {how}; --data-dir or PRUNE_DATA names the folder"
    )


def _lacking(root: Path, layouts: Sequence[Layout]) -> str:
    """Returns which files are absent beside others that are there, in brackets, or nothing."""
    for layout in layouts:
        for folder in (*(root / sub for sub in layout.folders), root):
            absent = [file for file in layout.files if _present(folder, file) is None]
            if 0 < len(absent) < len(layout.files):
                return f" ({folder} lacks {', '.join(absent)})"
    return ""


def read(name: str, path: Path) -> bytes:
    """Returns the bytes of a data set's file; raises PlanError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlanError(f"data set '{name}': {path} cannot be read: {error.strerror}") from None


def damaged(name: str, path: Path, reason: str) -> PlanError:
    """Returns the error for a file that is not what it should be."""
    return PlanError(f"data set '{name}': {path} is damaged or incomplete: {reason}; get the file anew")


def _present(folder: Path, file: str) -> Path | None:
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    return None


def _summary(files: tuple[str, ...]) -> str:
    return ", ".join(files) if len(files) <= 4 else f"{files[0]} ... {files[-2]}, {files[-1]}"
