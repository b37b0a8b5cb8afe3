"""Worker processes on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import IO, Any

STOP_SECONDS = 5.0  # that a worker has to end by itself


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    folder: str | None = None  # of the phase it is at
    tail: bytes = b""  # of a reply that has not come whole
    errors: list[str] = field(default_factory=list)


class LocalExecutor:
    """Runs tasks in `jobs` processes of `threads` threads each; with `gpus`, process i sees GPU number i modulo their count.

    A process that dies fails its phase and is replaced.
    """

    def __init__(self, jobs: int, threads: int = 1, gpus: int = 0) -> None:
        self.slots = jobs
        self.threads = threads
        self.gpus = gpus
        self._workers: list[_Worker | None] = [None] * jobs
        self._selector = selectors.DefaultSelector()

    def free(self) -> int:
        """Returns how many more tasks can be started now."""
        return sum(worker is None or worker.folder is None for worker in self._workers)

    def start(self, task: dict[str, Any]) -> None:
        """Gives the task to a worker that has none."""
        index = next(i for i, w in enumerate(self._workers) if w is None or w.folder is None)
        worker = self._workers[index] or self._spawn(index)
        worker.folder = task["folder"]
        stdin = worker.process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead worker is found by poll()
            stdin.write(json.dumps({**task, "threads": self.threads}).encode() + b"\n")
            stdin.flush()

    def _spawn(self, index: int) -> _Worker:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _visible(index % self.gpus)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pruning.study.sweep.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the sweep, which ends its workers
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        worker = _Worker(process)
        self._workers[index] = worker
        self._selector.register(process.stdout, selectors.EVENT_READ, index)
        return worker

    def poll(self, seconds: float) -> list[dict[str, Any]]:
        """Returns the messages that came within `seconds`: epoch, warning, done, failed, each with its folder."""
        messages = []
        for key, _ in self._selector.select(seconds):
            worker = self._workers[key.data]
            assert worker is not None
            messages += self._read(key.fileobj, worker, key.data)  # type: ignore[arg-type]
        return messages

    def _read(self, stream: IO[bytes], worker: _Worker, index: int) -> list[dict[str, Any]]:
        chunk = stream.read()
        if chunk is None:
            return []
        lines = (worker.tail + chunk).split(b"\n")
        worker.tail = lines.pop()
        messages: list[dict[str, Any]] = [json.loads(line) for line in lines]
        if any(message["kind"] in ("done", "failed") for message in messages):
            worker.folder = None
        if not chunk:
            self._selector.unregister(stream)
            self._workers[index] = None
            code = worker.process.wait()
            if worker.folder is not None:
                messages.append({"kind": "failed", "folder": worker.folder, "error": _cause(code), "traceback": ""})
        return messages

    def close(self) -> None:
        """Ends all workers; what they were at goes on from its last whole epoch when asked for again."""
        workers = [worker for worker in self._workers if worker is not None]
        for worker in workers:
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()  # type: ignore[union-attr]
            worker.process.terminate()
        for worker in workers:
            try:
                worker.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = [None] * self.slots


def _cause(code: int) -> str:
    if code < 0:
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"the worker process was ended by {signal.Signals(-code).name}{hint}"
    return f"the worker process ended with exit code {code}"


def _visible(index: int) -> str:
    """Returns the GPU with that index among those that this process may see."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[index].strip() if given else str(index)
