"""One process at a time in a run folder: a file lock, which holds across machines where the file system carries it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pruning.errors import PlanError

LOCK = "lock"


@contextlib.contextmanager
def locked(run: Path, notice: Callable[[str], None]) -> Iterator[None]:
    """Holds the run folder for this process; waits where another has it, and tells `notice` which."""
    path = run / LOCK
    file = _lock(path, notice)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a lock that stays behind is cleared by the next process
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            file.close()


def unless_held(run: Path, act: Callable[[], None]) -> None:
    """Calls `act` while holding the folder, and removes the lock that a killed process left; nothing where a process holds it."""
    path = run / LOCK
    with contextlib.suppress(OSError), path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _same(file, path):
            act()
            path.unlink(missing_ok=True)


def _same(file: IO[str], path: Path) -> bool:
    """Returns whether the open file is still the one of that name: a holder removes its lock when it ends."""
    return path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino


def _lock(path: Path, notice: Callable[[str], None]) -> IO[str]:
    while True:
        try:
            file = path.open("a+")
        except OSError as error:
            raise PlanError(f"cannot write {path}: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            notice(f"run '{path.parent}' is held by {file.read().strip() or 'another process'}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        if _same(file, path):  # a lock on a removed file is worth nothing
            with contextlib.suppress(OSError):  # the lock holds on a full disk too; only the holder's name is missing
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            return file
        file.close()
