"""Sweeps side by side on one folder: each is present while it works, and tensors are dropped by one that is alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pruning.errors import PlanError

FILE = ".sweeps"


class Presence:
    """A sweep's hold on the folder of the runs: shared with other sweeps, for as long as it works."""

    def __init__(self, out: Path) -> None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(out / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise PlanError(f"cannot write {out / FILE}: {error.strerror}") from None
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Yields whether no other sweep is at work on the folder; none can begin meanwhile."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._handle, fcntl.LOCK_SH)
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_SH)

    def end(self) -> None:
        """Leaves the folder to others."""
        os.close(self._handle)
