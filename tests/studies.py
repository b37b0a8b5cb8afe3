"""What the tests of studies share: an executor in this very process, and what a study left, to be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruning.record import runs
from pruning.study.sweep import worker


class Inline:
    """An executor of one slot in this very process: nothing to start, no torch to import again."""

    slots = 1

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def free(self) -> int:
        return int(not self.messages)

    def start(self, task: dict[str, Any]) -> None:
        tell = lambda message: self.messages.append({"folder": task["folder"], **message})  # noqa: E731
        tell(worker.run_task({**task, "threads": 1}, tell))

    def poll(self, seconds: float) -> list[dict[str, Any]]:
        heard, self.messages = self.messages, []
        return heard

    def close(self) -> None:
        pass


def bits(out: Path) -> dict[str, Any]:
    """Returns all that must not depend on how often a study was killed: results, logs without times, tensors as bytes."""
    timing = ("seconds", "images_per_second", "train_seconds", "run")
    drop = lambda record: {k: v for k, v in record.items() if k not in timing}  # noqa: E731
    found: dict[str, Any] = {}
    for run in sorted(p for p in out.iterdir() if runs.is_run(p)):
        found[run.name] = [drop(runs.read_summary(run)), [drop(r) for r in runs.log(run)]]
        found |= {f"{run.name}/{file.name}": file.read_bytes() for file in sorted(run.glob("*.safetensors"))}
    return found
