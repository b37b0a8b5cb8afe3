"""Work in a process of its own that ends at a chosen moment, so that tests of interruptions are exact and repeatable.

The processes are forked from a server that has imported what takes long, so that one starts in no time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT = 120.0

context = multiprocessing.get_context("forkserver")
# torch._dynamo is what torch imports when the first optimizer is made.
context.set_forkserver_preload(
    ["__main__", "torch._dynamo", "pruning.engine", "pruning.study.sweep", "sklearn.datasets"]
)


class Moment(NamedTuple):
    """The `count`-th time that something happens, counted from 1 in each process.

    `step`: an optimizer has made a step. `line`: a line went to log.jsonl, and `torn line`: half of it. Of the files with the
    name `file`, `torn`: half of the temporary file is written; `written`: it is whole but has not replaced the file; `named`:
    it has.
    """

    what: str
    file: str = ""
    count: int = 1

    def __str__(self) -> str:
        return " ".join(filter(None, (self.what, self.file, str(self.count))))


def listen(heard: Callable[[str, str, Path | None], None]) -> None:
    """Has `heard(what, file name, path that can be torn)` called at everything that a :class:`Moment` can name."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from pruning.record import runs

    append_log, replace = runs.append_log, os.replace

    def append(run: Path, record: Any) -> None:
        append_log(run, record)
        heard("torn line", "", run / runs.LOG)
        heard("line", "", None)

    def rename(part: Any, path: Any) -> None:
        name = Path(path).name
        heard("torn", name, Path(part))
        heard("written", name, None)
        replace(part, path)
        heard("named", name, None)

    register_optimizer_step_post_hook(lambda *_: heard("step", "", None))
    runs.append_log, os.replace = append, rename


def counted() -> Callable[[str, str], Moment]:
    """Returns a function that returns the moment that has come: how often it was called with these arguments."""
    seen: dict[tuple[str, str], int] = {}

    def count(what: str, file: str) -> Moment:
        seen[what, file] = seen.get((what, file), 0) + 1
        return Moment(what, file, seen[what, file])

    return count


def end_at(moment: Moment, sign: int) -> None:
    """Sends this process the signal when the moment has come."""
    count = counted()

    def heard(what: str, file: str, path: Path | None) -> None:
        if count(what, file) == moment:
            if path is not None:
                size = path.stat().st_size
                os.truncate(path, size - 9 if what == "torn line" else size // 2)
            os.kill(os.getpid(), sign)

    listen(heard)


def _begin(
    function: Callable[..., None], args: tuple[Any, ...], moment: Moment | None, sign: int, told: Path | None
) -> None:
    if moment is not None:
        end_at(moment, sign)
    if told is not None:
        count = counted()
        file = told.open("w", buffering=1)
        listen(lambda what, name, _: print(*count(what, name), sep="\t", file=file))
    function(*args)


def work(
    function: Callable[..., None],
    *args: Any,
    at: Moment | None = None,
    sign: int = signal.SIGKILL,
    told: Path | None = None,
) -> int:
    """Returns the exit code of a process that calls `function(*args)`, -9 where it was killed at the moment `at`.

    All moments that pass are written to the file `told`.
    """
    process = context.Process(target=_begin, args=(function, args, at, sign, told))
    process.start()
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{function.__name__} has not ended after {TIMEOUT:.0f} s")
    return process.exitcode


def moments(told: Path) -> Iterator[Moment]:
    """Yields the moments that :func:`work` wrote to a file, in their order."""
    for line in told.read_text().splitlines():
        what, file, count = line.split("\t")
        yield Moment(what, file, int(count))


PLAN = """
[[phases]]
phase = "train"
model = "lenet-5"
data = "digits"
epochs = 4
batch_size = 128
lr = 0.05
keep_epochs = [0, 2]
[[phases]]
phase = "prune"
sparsity = 0.8
[[phases]]
phase = "retrain"
technique = "weight-rewind"
epochs = 2
"""


def run_plan(text: str, out: Path) -> None:
    """Carries out a plan with one thread, with a resume file after every epoch but the last."""
    import torch

    from pruning import engine
    from pruning.engine import fitting
    from pruning.plan import parse_plan

    torch.set_num_threads(1)
    fitting.SAVE_EVERY = 0.0
    engine.run(parse_plan(text, "p", "p"), out, device="cpu")
