"""What ties the tensor files of a run together: summary.json holds the SHA-256 and size of each, and readers compare."""

from __future__ import annotations

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pruning.errors import PlanError
from pruning.plan import Phase, Train
from pruning.record import kept, runs
from pruning.record.writing import faults_named

CHUNK = 2**22
DAMAGED = "resume.damaged"  # a resume file that could not be used, until the run has finished


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def files(run: Path) -> dict[str, dict[str, Any]]:
    """Returns {file name: its SHA-256 and size} of the tensor files that a run holds now, but for its resume file."""
    paths = sorted(path for path in run.glob("*.safetensors") if path.name != runs.RESUME)
    with faults_named(run), ThreadPoolExecutor() as pool:  # hashing leaves the interpreter's lock to others
        return {
            path.name: {"sha256": digest, "bytes": path.stat().st_size}
            for path, digest in zip(paths, pool.map(sha256, paths), strict=True)
        }


def held(run: Path, name: str) -> Path | None:
    """Returns the tensor file of a finished run, compared with what its summary says, or None where the run has none.

    Raises PlanError where a file is missing, is another, or was put there later. Runs of a version that recorded no files are
    taken as they are.
    """
    path = run / name
    known = runs.read_summary(run).get("files")
    if known is None:
        return path if path.is_file() else None
    if name not in known:
        if path.exists():
            raise PlanError(f"{path} is none of the files that run '{run}' ended with")
        return None
    compare(path, known[name], f"run '{run}'", runs.SUMMARY)
    return path


def compare(path: Path, file: dict[str, Any], owner: str, record: str) -> None:
    """Raises PlanError where a file is missing or is not the one that the owner ended with, by SHA-256 and size in its record."""
    try:
        if path.stat().st_size != file["bytes"] or sha256(path) != file["sha256"]:
            raise PlanError(f"{path} is not the file that {owner} ended with: its bytes differ from {record}'s digest")
    except FileNotFoundError:
        raise PlanError(f"{path} is missing: {owner} ended with it") from None
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from None


def held_together(run: Path, *names: str) -> list[Path | None]:
    """Returns what :func:`held` does for several files, read side by side."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: held(run, name), names))


def needed(run: Path, name: str) -> Path:
    """Returns the tensor file of a finished run as :func:`held` does; raises PlanError where there is none."""
    path = held(run, name)
    if path is None:
        raise PlanError(f"{run / name} does not exist")
    return path


def intact(run: Path, phase: Phase) -> bool:
    """Returns whether a finished run still has the tensors that its descendants start from."""
    if not (run / runs.WEIGHTS).is_file():
        return False
    if not isinstance(phase, Train):
        return True
    names = [kept.state_file(run, epoch) for epoch in phase.keep_epochs]
    return all((run / name).is_file() for name in (*names, *map(runs.step_file, phase.keep_steps)))


def sweep_out(run: Path, finished: bool) -> None:
    """Removes what a process that was killed left in a run folder: parts of files, and of a finished run its resume file."""
    for pattern in (".*.part", ".tmp*"):  # the second are safetensors' own
        for leftover in run.glob(pattern):
            with contextlib.suppress(OSError):
                leftover.unlink()
    if finished:
        for name in (runs.RESUME, DAMAGED):
            with contextlib.suppress(OSError):
                (run / name).unlink(missing_ok=True)
