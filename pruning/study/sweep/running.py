"""Carrying a study out: ready phases go to the executor, failures stop only what hangs on them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pruning.plan import Prune, Train
from pruning.record import runs
from pruning.study.sweep import phase_graph as graphs
from pruning.study.sweep.phase_graph import Graph, Node
from pruning.study.sweep.presence import Presence
from pruning.study.sweep.study import Study

POLL_SECONDS = 0.5


class Executor(Protocol):
    """Where phases run: on this machine's processes or on a cluster."""

    slots: int

    def free(self) -> int: ...
    def start(self, task: dict[str, Any]) -> None: ...
    def poll(self, seconds: float) -> list[dict[str, Any]]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Message:
    """Something to be told once: a phase that ended ("done", "failed"), or a "warning"."""

    kind: str
    folder: str
    text: str = ""


@dataclass(frozen=True)
class Status:
    """Where a study stands. Epochs and seconds are of what has to be run; `seconds_left` is None before anything is known.

    A phase whose length is in steps counts as one epoch until it says how many it has; `unknown` are those to come.
    """

    phases: int
    done: int
    failed: int
    blocked: int
    epochs: float
    epochs_done: float
    running: dict[str, tuple[float, float]] = field(default_factory=dict)  # folder: (epoch, epochs)
    seconds_left: float | None = None
    unknown: int = 0


@dataclass
class Outcome:
    """How it ended: the phases that ran, those that failed with their errors, and those that hang on a failed one."""

    ran: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)


class Sweep:
    """One study on its way: `status()` at any time, `carry_out()` once."""

    def __init__(self, study: Study, graph: Graph, out: Path, retry_failed: bool = False) -> None:
        self.study, self.graph, self.out = study, graph, out
        self.todo = graphs.unfinished(graph, out)
        known = graphs.failures(graph, out)
        if retry_failed:
            for folder in known:
                graphs.forget_failure(out, folder)
            known = {}
        self.outcome = Outcome(failed={folder: str(record["error"]) for folder, record in known.items()})
        self.blocked = {child for folder in known for child in graphs.descendants(graph, folder)}
        self.running: dict[str, int] = {}  # folder: epoch
        self.asked = sorted(self.todo)
        self._known: dict[str, float] = {}  # epochs of phases whose length is in steps
        self._rates: dict[tuple[str, str], list[float]] = {}  # seconds per epoch of finished runs
        self._others: list[float] = []  # seconds of finished prunings
        for folder, node in graph.nodes.items():
            if folder not in self.todo:
                self._learn(node)

    def carry_out(self, executor: Executor, where: dict[str, Any], tell: Callable[[Message | Status], None]) -> Outcome:
        """Returns the outcome when all that can be done is done; `where` holds device, data_dir and trust_code."""
        for folder in self.outcome.failed:
            tell(Message("failed", folder, f"failed before: {self.outcome.failed[folder]}"))
        presence = Presence(self.out)
        self.todo = graphs.unfinished(self.graph, self.out)  # another sweep may have dropped or finished some meanwhile
        try:
            while self._start(executor, where) or self.running:
                tell(self.status(executor.slots))
                for message in executor.poll(POLL_SECONDS):
                    self._heard(message, tell)
                self._drop(presence)
            self._drop(presence)
        finally:
            executor.close()
            presence.end()
        self.outcome.blocked = sorted(self.blocked & self.todo)
        tell(self.status(executor.slots))
        return self.outcome

    def ready(self) -> list[str]:
        """Returns the phases that could run now, in the study's order."""
        out = []
        for folder, node in self.graph.nodes.items():
            waits = folder in self.running or folder in self.blocked or folder in self.outcome.failed
            if folder in self.todo and not waits and node.parent not in self.todo:
                out.append(folder)
        return out

    def _start(self, executor: Executor, where: dict[str, Any]) -> bool:
        started = False
        for folder in self.ready()[: executor.free()]:
            node = self.graph.nodes[folder]
            self.running[folder] = 0
            executor.start(
                {
                    "folder": folder,
                    "phase": node.phase.model_dump(mode="json", exclude_unset=True) | {"phase": node.phase.phase},
                    "parent": None if node.parent is None else str(self.out / node.parent),
                    "out": str(self.out),
                    "where": where,
                    "argv": sys.argv,
                    "intact": bool(self.graph.children.get(folder)),
                }
            )
            started = True
        return started

    def _heard(self, message: dict[str, Any], tell: Callable[[Message | Status], None]) -> None:
        folder, kind = message["folder"], message["kind"]
        if kind == "epoch":
            self.running[folder] = message["epoch"]
            if "epochs" in message:
                self._known[folder] = message["epochs"]
        elif kind == "warning":
            tell(Message("warning", folder, message["text"]))
        elif kind == "done":
            self._done(folder)
            tell(Message("done", folder))
        else:
            node = self.graph.nodes[folder]
            graphs.record_failure(self.out, node, message["error"], message["traceback"])
            del self.running[folder]
            self.outcome.failed[folder] = message["error"]
            self.blocked |= set(graphs.descendants(self.graph, folder))
            tell(Message("failed", folder, message["error"]))

    def _done(self, folder: str) -> None:
        del self.running[folder]
        self.todo.discard(folder)
        self.outcome.ran.append(folder)
        graphs.forget_failure(self.out, folder)
        self._learn(self.graph.nodes[folder])

    def _drop(self, presence: Presence) -> None:
        """Drops the tensors that nothing needs any more, left by an earlier sweep too; not while another sweep may need them."""
        wanted = [name for name in graphs.droppable(self.study, self.graph, self.todo) if self._holds(name)]
        if wanted:
            with presence.alone() as alone:
                for name in wanted if alone else ():
                    graphs.drop_tensors(self.out, name)

    def _holds(self, name: str) -> bool:
        return runs.is_done(self.out / name) and any((self.out / name).glob("*.safetensors"))

    # --- how long ------------------------------------------------------------------------------------------------------------

    def _learn(self, node: Node) -> None:
        summary = runs.read_summary(self.out / node.folder)
        if summary.get("seconds") is None:
            return
        if isinstance(node.phase, Prune):
            self._others.append(summary["seconds"])
        else:
            self._known[node.folder] = summary["epochs"]
            self._rates.setdefault(_kind(node), []).append(summary["seconds"] / self._epochs(node.folder))

    def _epochs(self, folder: str) -> float:
        found = self.graph.nodes[folder].epochs
        return self._known.get(folder, 1) if found is None else found

    def _left(self, folder: str, epoch: int) -> float:
        return max(0, self._epochs(folder) - epoch)  # the last epoch may be a part of one

    def _seconds(self, node: Node, epoch: int) -> float | None:
        if isinstance(node.phase, Prune):
            return statistics.median(self._others) if self._others else 0.0
        rates = self._rates.get(_kind(node))
        return statistics.median(rates) * self._left(node.folder, epoch) if rates else None

    def status(self, slots: int) -> Status:
        """Returns where the study stands; the time left is that of `slots` busy workers, or of the longest chain if longer."""
        left = {f: self.running.get(f, 0) for f in self.todo if f not in self.blocked and f not in self.outcome.failed}
        seconds = {folder: self._seconds(self.graph.nodes[folder], epoch) for folder, epoch in left.items()}
        total: float | None = None
        if not any(value is None for value in seconds.values()):
            chain: dict[str | None, float] = {}
            for folder, node in self.graph.nodes.items():
                chain[folder] = chain.get(node.parent, 0.0) + (seconds.get(folder) or 0.0)
            total = max(sum(value or 0.0 for value in seconds.values()) / slots, max(chain.values(), default=0.0))
        remaining = sum(self._left(folder, epoch) for folder, epoch in left.items())
        total_epochs = sum(self._epochs(folder) for folder in self.asked if folder not in self.todo or folder in left)
        return Status(
            phases=len(self.graph.nodes),
            done=len(self.graph.nodes) - len(self.todo),
            failed=len(self.outcome.failed),
            blocked=len(self.blocked & self.todo),
            epochs=total_epochs,
            epochs_done=total_epochs - remaining,
            running={f: (min(epoch, self._epochs(f)), self._epochs(f)) for f, epoch in self.running.items()},
            seconds_left=total,
            unknown=sum(self.graph.nodes[f].epochs is None and f not in self._known for f in left),
        )


def _kind(node: Node) -> tuple[str, str]:
    """Returns what the time of an epoch depends on most: network and data."""
    train: Train = node.train
    return train.model, train.data
