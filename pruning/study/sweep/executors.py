"""Where the phases of a study run, by name: each makes an executor (:class:`pruning.study.sweep.running.Executor`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pruning.registry import Function, Registry


@dataclass(frozen=True)
class Place:
    """What an executor is made for: how many phases at the same time, threads of each, GPUs here, and a cluster's address."""

    jobs: int | None
    slots: int
    threads: int = 1
    gpus: int = 0
    gpus_per_run: float = 0.0
    address: str | None = None


@dataclass(frozen=True)
class ExecutorEntry(Function):
    """A function (:class:`Place`) -> executor."""


def local(place: Place) -> Any:
    """Returns worker processes on this machine."""
    from pruning.study.sweep.local import LocalExecutor

    return LocalExecutor(place.slots, place.threads, place.gpus)


def ray(place: Place) -> Any:
    """Returns a Ray cluster, the one at the address or a new one here."""
    from pruning.study.sweep.cluster import RayExecutor

    return RayExecutor(place.address, threads=place.threads, gpus=place.gpus_per_run, jobs=place.jobs)


EXECUTORS = Registry(
    "executor",
    ExecutorEntry,
    {
        "local": ExecutorEntry(local, summary="processes on this machine"),
        "ray": ExecutorEntry(ray, summary="a Ray cluster (extra 'ray')"),
    },
)
