"""A worker process: takes phases as JSON lines on standard input, runs one at a time, tells what happens as JSON lines.

It ends when its standard input closes, in the middle of a phase too: a sweep that is killed leaves no worker behind, and the
phase goes on from its last whole epoch when it is asked for again.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, Any

from pruning.events import EpochDone, Event, PhaseStarted, Warned
from pruning.plan import PHASES, PlanError, make


def run_task(task: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Runs one phase; returns {"kind": "done"} or {"kind": "failed", "error", "traceback"}; `tell` takes what happens meanwhile.

    The number of threads is the task's, whatever the machine: sums of floats depend on it.
    """
    import torch

    from pruning import engine

    def heard(event: Event) -> None:
        match event:
            case PhaseStarted(epoch=epoch, epochs=epochs):
                tell({"kind": "epoch", "epoch": epoch, "epochs": epochs})
            case EpochDone(record=record):
                tell({"kind": "epoch", "epoch": record["epoch"]})
            case Warned(text=text):
                tell({"kind": "warning", "text": text})

    torch.set_num_threads(task["threads"])
    sys.argv = task["argv"]  # what env.json records as the command
    try:
        phase = make(PHASES[task["phase"]["phase"]], task["phase"])
        parent = None if task["parent"] is None else Path(task["parent"])
        engine.advance(phase, parent, Path(task["out"]), intact=task["intact"], tell=heard, **task["where"])
    except PlanError as error:
        return {"kind": "failed", "error": str(error), "traceback": ""}
    except Exception as error:  # whatever a model, a data set or a device of the user's does is that phase's failure
        return {"kind": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return {"kind": "done"}


def main() -> None:
    """Serves tasks from standard input until it closes."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the user's code prints is no reply
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, tasks), daemon=True).start()
    while True:
        task = tasks.get()

        def tell(message: dict[str, Any], folder: str = task["folder"]) -> None:
            replies.write(json.dumps({"folder": folder, **message}) + "\n")

        tell(run_task(task, tell))


def _listen(stream: IO[str], tasks: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in stream:
        tasks.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    main()
