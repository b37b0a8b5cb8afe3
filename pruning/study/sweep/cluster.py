"""A Ray cluster (extra `ray`): many machines, queueing, and tries again where a node is lost.

All machines see the folder of the runs under the same path. A phase that is tried again goes on from its last whole epoch, and the
lock of its run folder keeps a process that outlives its node for a moment from writing beside its successor.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruning.plan import PlanError
from pruning.record import runs
from pruning.study.sweep import worker

RETRIES = 3  # of a phase whose process or node was lost; an error of the phase's own is no loss and is not tried again


CONNECT_SECONDS = 10.0


class RayExecutor:
    """Hands every ready phase to Ray, which queues them for `threads` CPUs and `gpus` of a GPU each.

    `address` is the cluster's, "auto" one that runs on this machine; None takes RAY_ADDRESS or starts one here. `jobs` bounds how
    many phases are handed over at a time.
    """

    def __init__(
        self, address: str | None = None, threads: int = 1, gpus: float = 0.0, jobs: int | None = None
    ) -> None:
        try:
            import ray
        except ImportError:
            raise PlanError("executor 'ray' needs the extra: pip install 'pruning[ray]'") from None
        self.ray = ray
        self.own = not ray.is_initialized()
        if self.own:
            _check_address(address or os.environ.get("RAY_ADDRESS"))
            try:
                with _elsewhere():
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
            except (ConnectionError, ValueError) as error:
                raise PlanError(f"no Ray cluster at '{address}': {' '.join(str(error).split())}") from None
        self.threads, self.gpus, self.jobs = threads, gpus, jobs
        cpus = int(ray.cluster_resources().get("CPU", 1)) // threads
        shares = int(ray.cluster_resources().get("GPU", 0) / gpus) if gpus else cpus
        if not min(cpus, shares):
            self.close()
            raise PlanError(f"the Ray cluster has no place for a phase of {threads} CPUs and {gpus:g} GPUs")
        self.slots = min(jobs or cpus, cpus, shares)
        self._pending: dict[Any, dict[str, Any]] = {}
        self._remote = ray.remote(_run)

    def free(self) -> int:
        """Returns how many more phases may be handed over; without `jobs`, any number."""
        return (self.jobs or 1_000_000) - len(self._pending)

    def start(self, task: dict[str, Any]) -> None:
        """Hands the task over."""
        parent = None if task["parent"] is None else str(Path(task["parent"]).resolve())
        task = {
            **task,
            "parent": parent,
            "out": str(Path(task["out"]).resolve()),
            "threads": self.threads,
            "cwd": os.getcwd(),
        }
        options = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_retries": RETRIES, "name": task["folder"]}
        self._pending[self._remote.options(**options).remote(task)] = task

    def poll(self, seconds: float) -> list[dict[str, Any]]:
        """Returns the messages that came within `seconds`; how far a phase is, is read from its log."""
        done, _ = self.ray.wait(list(self._pending), num_returns=1, timeout=seconds)
        messages = [{"kind": "epoch", "folder": t["folder"], "epoch": _epoch(t)} for t in self._pending.values()]
        for reference in done:
            folder = self._pending.pop(reference)["folder"]
            try:
                told = self.ray.get(reference)
            except self.ray.exceptions.RayError as error:
                cause = " ".join(str(error).split())
                told = [{"kind": "failed", "error": f"lost by Ray {RETRIES + 1} times: {cause}", "traceback": ""}]
            messages += [{"folder": folder, **message} for message in told]
        return messages

    def close(self) -> None:
        """Cancels what has not ended, and leaves the cluster."""
        for reference in getattr(self, "_pending", {}):
            self.ray.cancel(reference, force=True)
        if self.own:
            self.ray.shutdown()


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """Runs its body in an empty folder: Ray puts the driver's current one first among what workers import from."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as nowhere:
        os.chdir(nowhere)
        try:
            yield
        finally:
            os.chdir(here)


def _check_address(address: str | None) -> None:
    """Raises PlanError where nothing listens at HOST:PORT; Ray itself would try for many minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise PlanError(f"no Ray cluster at '{address}': {error.strerror or error}") from None


def _run(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs one phase on a node; returns its warnings and how it ended."""
    os.chdir(task["cwd"])  # where relative names of the user's files start
    told: list[dict[str, Any]] = []
    end = worker.run_task(task, told.append)
    return [*(message for message in told if message["kind"] == "warning"), end]


def _epoch(task: dict[str, Any]) -> int:
    log = runs.log(Path(task["out"]) / task["folder"])
    return int(log[-1]["epoch"]) if log else 0
