"""Runs plans: `run` folds `advance` over the phases, and `advance` makes one run folder of one phase.

Everything that can be refused is refused before the folder is made. A finished run is reused, an interrupted one goes on from
its last whole epoch, and one process at a time works on a folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.engine import adopting
from pruning.engine.exporting import export_run
from pruning.engine.lookahead import check_retrain, look_ahead, preview
from pruning.engine.phases import Job, dense_schedule, prepare
from pruning.engine.reading import evaluate_run, load_model, structure
from pruning.engine.session import Session, open_session, recorded, workbench
from pruning.engine.shrinking import load_shrunk, read_shrunk, shrink_run
from pruning.events import PhaseDone, PhaseStarted, Warned
from pruning.plan import SCHEMA, Phase, Plan, PlanError, Retrain, Train, digest
from pruning.plan.completion import complete
from pruning.record import locking, runs, trust, whole, writing
from pruning.record.environment import environment
from pruning.record.stamp import stamp

__all__ = [
    "Job", "adopt", "advance", "dense_schedule", "evaluate_run", "export_run", "load_model", "load_shrunk", "preview",
    "read_shrunk", "run",
    "shrink_run", "structure",
]  # fmt: skip


def run(plan: Plan | Sequence[Phase], out: Path, parent: Path | None = None, **options: Any) -> list[Path]:
    """Returns the run folders of all phases of the plan, or of phases behind the run `parent`, in order.

    The options are those of :func:`advance`. What a later phase could not do is refused before the first begins.
    """
    session = open_session(**options)
    phases = list(plan.phases if isinstance(plan, Plan) else plan)
    if len(phases) > 1:
        look_ahead(session, phases, parent, Path(out))
    folders: list[Path] = []
    for phase in phases:
        folders.append(_advance(session, phase, folders[-1] if folders else parent, Path(out)))
    return folders


def advance(phase: Phase, parent: Path | None, out: Path, *, intact: bool = False, **options: Any) -> Path:
    """Returns the finished run folder of one phase, under `out`; made, continued or reused.

    With `intact` a finished run whose tensors were dropped is made again.

    Options: device ("auto", "cpu", "cuda:0"), data_dir, trust_code, tell (a listener for :mod:`pruning.events`), track
    (None or "tensorboard"), download (fetch a data set that is missing). Raises PlanError, before anything is written,
    for whatever cannot be done.
    """
    return _advance(open_session(**options), phase, parent, Path(out), intact)


def adopt(
    train: Train,
    out: Path,
    weights: Path | None = None,
    *,
    pretrained: str | None = None,
    key: str | None = None,
    partial: bool = False,
    zeros: bool = False,
    schedule: bool = False,
    dry_run: bool = False,
    **options: Any,
) -> Path | list[dict[str, Any]]:
    """Returns the run folder, under `out`, of weights that were trained elsewhere, measured on the data and not trained.

    `weights` is a file (:mod:`pruning.record.foreign`); `pretrained` names weights of torchvision or timm in its place. `train`
    says what network and data they belong to; with `schedule` its epochs and learning rates are those of the training that they
    come from. `partial` takes what fits, `zeros` takes entries that are 0 as pruned, `key` is of a file with several state
    dicts. With `dry_run` returns the rows of :func:`preview` and writes nothing. Other options are those of :func:`advance`.
    """
    session = open_session(**options)
    session.weights = adopting.open_weights(weights, pretrained, train, key)
    phase = adopting.adopted(train, session.weights, partial=partial, zeros=zeros, schedule=schedule)
    return look_ahead(session, [phase], None, Path(out)) if dry_run else _advance(session, phase, None, Path(out))


def _advance(session: Session, phase: Phase, parent: Path | None, out: Path, intact: bool = False) -> Path:
    job = _resolve(session, phase, parent, out)
    if _finished(job, intact):
        return _reuse(session, job)
    make = prepare(session, job)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"cannot write {job.folder}: {error.strerror}") from None
    with (
        writing.faults_named(job.folder),
        locking.locked(job.folder, lambda text: session.tell(Warned(text))),
    ):
        if _finished(job, intact):  # by the process that we waited for
            return _reuse(session, job)
        whole.sweep_out(job.folder, finished=False)
        if runs.is_done(job.folder):  # its tensors were dropped and are needed again
            (job.folder / runs.SUMMARY).unlink()
        started = time.perf_counter()
        _write_record(job)
        about = environment(session.device)
        writing.write_json(job.folder / runs.ENV, about)
        summary = make()
        summary["seconds"] = summary.get("seconds") or time.perf_counter() - started
        summary["files"] = whole.files(job.folder)
        writing.write_json(job.folder / runs.ENV, {**about, "seconds": summary["seconds"]})
        writing.write_json(job.folder / runs.SUMMARY, summary)
        whole.sweep_out(job.folder, finished=True)
    session.tell(PhaseDone(str(job.folder), runs.result(runs.read_summary(job.folder))))
    return job.folder


def _finished(job: Job, intact: bool) -> bool:
    return runs.is_done(job.folder) and (not intact or whole.intact(job.folder, job.phase))


def _reuse(session: Session, job: Job) -> Path:
    # Another process may be making a run anew whose tensors were dropped: what it writes is no leftover.
    locking.unless_held(job.folder, lambda: whole.sweep_out(job.folder, finished=runs.is_done(job.folder)))
    epochs = runs.read_summary(job.folder).get("epochs") or 0
    session.tell(PhaseStarted(str(job.folder), job.phase.phase, epochs, 0, int(epochs), reused=True))
    session.tell(PhaseDone(str(job.folder), runs.result(runs.read_summary(job.folder)), reused=True))
    return job.folder


def _write_record(job: Job) -> None:
    code = job.bench.code if isinstance(job.phase, Train) else job.code
    record = {
        "schema": SCHEMA,
        "settings": job.phase.model_dump(mode="json"),
        "parent": None if job.parent is None else job.parent.name,
        "digest": job.digest,
        "code": code,
        "data_dir": job.bench.data_dir,
    }
    if code and isinstance(job.phase, Train):
        record["seal"] = trust.seal(job.digest, code)
    writing.write_json(job.folder / runs.PHASE, record)


def _resolve(session: Session, phase: Phase, parent: Path | None, out: Path) -> Job:
    """Returns the phase with nothing left open, its digest and its folder; loads the data."""
    if not str(out).isprintable():
        raise PlanError(f"out {str(out)!r} has characters that a line of standard output cannot carry")
    if isinstance(phase, Train):
        if parent is not None:
            raise PlanError("a train phase has no parent")
        train, code = stamp(phase)
        where = workbench(session, train, code, None)
        name = digest(train)
        return Job(train, None, out / runs.folder_name(train, train, name), name, where, {})
    if parent is None:
        raise PlanError(f"a {phase.phase} phase needs a run to start from")
    parent = Path(parent)
    runs.check_run(parent)
    if parent.absolute().parent.resolve() != out.resolve():  # a run may be a symbolic link to one elsewhere
        raise PlanError(f"run '{parent}' does not lie in '{out}': a run and its parent are kept side by side")
    if isinstance(phase, Retrain):
        check_retrain(phase, whole.held(parent, runs.MASKS) is not None, f"run '{parent}'")
    train, code, data_dir = recorded(session, parent)
    phase, own = stamp(complete(phase, train))
    name = digest(phase, runs.read_record(parent)["digest"])
    where = workbench(session, train, code, data_dir)
    return Job(phase, parent, out / runs.folder_name(phase, train, name), name, where, own)
