"""Runs plans: `run` folds `advance` over the phases, and `advance` makes one run folder of one phase.

Everything that can be refused is refused before the folder is made. A finished run is reused, an interrupted one goes on from
its last whole epoch, and one process at a time works on a folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruning import checkpoint, methods, rewind, runs, schedules, trust
from pruning.engine import decide
from pruning.engine.fitting import fit_in, optimizer_state, split_state
from pruning.engine.impact import impact
from pruning.engine.looking import check_kept, evaluate_run, load_model, preview
from pruning.engine.results import accuracy_on_test, load_state, measure, summarize
from pruning.engine.session import Session, Setting, open_session, recorded, setting
from pruning.events import PhaseDone, PhaseStarted, Warned
from pruning.loop import recalibrate
from pruning.masks import Masks, prunable
from pruning.methods import Method
from pruning.plan import SCHEMA, Plan, PlanError, Prune, Retrain, Train, digest
from pruning.seeds import derive
from pruning.settle import settle, stamp

__all__ = ["Job", "advance", "dense_schedule", "evaluate_run", "load_model", "preview", "run"]

Phase = Train | Prune | Retrain


@dataclass(frozen=True)
class Job:
    """One phase, resolved: where it goes, what it starts from, and its data at hand."""

    phase: Phase
    parent: Path | None
    folder: Path
    digest: str
    setting: Setting


def run(plan: Plan, out: Path, **options: Any) -> list[Path]:
    """Returns the run folders of all phases of the plan, in order; the options are those of :func:`advance`."""
    session = open_session(**options)
    check_kept(plan.phases, plan.train)
    folders: list[Path] = []
    for phase in plan.phases:
        folders.append(_advance(session, phase, folders[-1] if folders else None, Path(out)))
    return folders


def advance(phase: Phase, parent: Path | None, out: Path, **options: Any) -> Path:
    """Returns the finished run folder of one phase, under `out`; made, continued or reused.

    Options: device ("auto", "cpu", "cuda:0"), data_dir, trust_code, tell (a listener for :mod:`pruning.events`), track
    (None or "tensorboard"). Raises PlanError, before anything is written, for whatever cannot be done.
    """
    return _advance(open_session(**options), phase, parent, Path(out))


def _advance(session: Session, phase: Phase, parent: Path | None, out: Path) -> Path:
    job = _resolve(session, phase, parent, out)
    if runs.is_done(job.folder):
        return _reuse(session, job)
    make = _prepare(session, job)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"cannot write {job.folder}: {error.strerror}") from None
    with runs.locked(job.folder, lambda text: session.tell(Warned(text))):
        if runs.is_done(job.folder):  # by the process that we waited for
            return _reuse(session, job)
        for leftover in job.folder.glob(".*.part"):
            leftover.unlink()
        started = time.perf_counter()
        _write_record(job)
        environment = checkpoint.environment(session.device)
        runs.write_json(job.folder / runs.ENV, environment)
        summary = make()
        summary["seconds"] = summary.get("seconds") or time.perf_counter() - started
        runs.write_json(job.folder / runs.ENV, {**environment, "seconds": summary["seconds"]})
        runs.write_json(job.folder / runs.SUMMARY, summary)
        (job.folder / runs.RESUME).unlink(missing_ok=True)
    session.tell(PhaseDone(str(job.folder), runs.result(runs.read_summary(job.folder))))
    return job.folder


def _reuse(session: Session, job: Job) -> Path:
    epochs = runs.read_summary(job.folder).get("epochs") or 0
    session.tell(PhaseStarted(str(job.folder), job.phase.phase, epochs, 0, epochs, reused=True))
    session.tell(PhaseDone(str(job.folder), runs.result(runs.read_summary(job.folder)), reused=True))
    return job.folder


def _write_record(job: Job) -> None:
    code = job.setting.code
    record = {
        "schema": SCHEMA,
        "settings": job.phase.model_dump(mode="json"),
        "parent": None if job.parent is None else job.parent.name,
        "digest": job.digest,
        "code": code if isinstance(job.phase, Train) else {},
        "data_dir": job.setting.data_dir,
    }
    if record["code"]:
        record["seal"] = trust.seal(job.digest, code)
    runs.write_json(job.folder / runs.PHASE, record)


def _resolve(session: Session, phase: Phase, parent: Path | None, out: Path) -> Job:
    """Returns the phase with nothing left open, its digest and its folder; loads the data."""
    if isinstance(phase, Train):
        if parent is not None:
            raise PlanError("a train phase has no parent")
        train, code = stamp(phase)
        where = setting(session, train, code, None)
        name = digest(train)
        return Job(train, None, out / runs.folder_name(train, train, name), name, where)
    if parent is None:
        raise PlanError(f"a {phase.phase} phase needs a run to start from")
    parent = Path(parent)
    runs.check_run(parent)
    if parent.resolve().parent != out.resolve():
        raise PlanError(f"run '{parent}' does not lie in '{out}': a run and its parent are kept side by side")
    if isinstance(phase, Retrain) and not (parent / runs.MASKS).exists():
        raise PlanError(f"run '{parent}' is not pruned; retrain continues a pruned run (prune prune RUN --sparsity S)")
    train, code, data_dir = recorded(session, parent)
    phase = settle(phase, train)
    name = digest(phase, runs.read_record(parent)["digest"])
    where = setting(session, train, code, data_dir)
    return Job(phase, parent, out / runs.folder_name(phase, train, name), name, where)


def _prepare(session: Session, job: Job) -> Callable[[], dict[str, Any]]:
    """Returns the function that does the phase's work; all that can be refused is refused here."""
    if isinstance(job.phase, Train):
        return _prepare_train(session, job, job.phase)
    if isinstance(job.phase, Prune):
        return _prepare_prune(session, job, job.phase)
    return _prepare_retrain(session, job, job.phase)


def _prepare_train(session: Session, job: Job, phase: Train) -> Callable[[], dict[str, Any]]:
    network = job.setting.build(phase.seed)
    job.setting.check(network)
    prunable(network, phase.exclude)  # refuses a network in which nothing can be pruned or counted
    steps = job.setting.data.steps_per_epoch(phase.batch_size)
    if late := [k for k in phase.keep_steps if k > phase.epochs * steps]:
        raise PlanError(f"keep_steps {late[0]} lies beyond the last step, {phase.epochs * steps}")
    method = methods.for_training(phase, steps)
    extra = method.attach(network)

    def make() -> dict[str, Any]:
        optimizer = fit_in(
            session, job.setting, job.folder, network, phase="train", cycle=0, epochs=phase.epochs, lr=dense_schedule(phase, steps),
            method=method, extra=extra, momenta={}, keep=phase.keep_epochs, keep_steps=phase.keep_steps,
        )  # fmt: skip
        before = None if phase.method == "none" else accuracy_on_test(job.setting, network)
        masks = method.finish()
        momenta = _masked(optimizer_state(optimizer, network), masks or {})
        summary = _finish(job, network, masks, momenta, epochs=phase.epochs)
        return summary if before is None else {**summary, "accuracy_before_prune": before}

    return make


def _prepare_prune(session: Session, job: Job, phase: Prune) -> Callable[[], dict[str, Any]]:
    assert job.parent is not None
    network = job.setting.build(job.setting.train.seed)
    present, momenta = load_state(job.parent, network)
    if (source := decide.source(phase, job.parent)) is not None:
        weights, momenta = split_state(checkpoint.load(source)[0])
        checkpoint.restore(network, weights, source)
    decide.check(job.setting, network, phase, present)

    def make() -> dict[str, Any]:
        session.tell(PhaseStarted(str(job.folder), "prune", 0, 0))
        masks = decide.masks(session, job.setting, network, phase, present)
        keeps = decide.put(job.setting, network, phase, masks)
        if phase.recalibrate == "one-pass":
            train = job.setting.train
            recalibrate(
                network, job.setting.data, batch_size=train.batch_size, seed=train.seed, device=job.setting.device,
                precision=train.precision,
            )  # fmt: skip
        return _finish(job, network, masks, _masked(momenta, masks) if keeps else {}, epochs=0)

    return make


def _prepare_retrain(session: Session, job: Job, phase: Retrain) -> Callable[[], dict[str, Any]]:
    assert job.parent is not None
    train = job.setting.train
    network = job.setting.build(train.seed)
    masks, momenta = load_state(job.parent, network)
    assert masks is not None
    source = rewind.find_state(phase, runs.history(job.parent)[0], train.epochs)
    if source is not None:
        weights, momenta = split_state(checkpoint.load(source)[0])
        checkpoint.restore(network, weights, source)
    elif rewind.TECHNIQUES[phase.technique].weights == "fresh":
        network, momenta = job.setting.build(derive(train.seed, "reinit")), {}
    if phase.optimizer_state == "reset":
        momenta = {}
    masks.apply(network)
    cycle = sum(isinstance(runs.read_phase(p), Retrain) for p in runs.history(job.parent)) + 1
    epochs = rewind.epochs(phase, train.epochs)
    per_epoch = job.setting.data.steps_per_epoch(train.batch_size)
    first_step = phase.rewind_step or 0
    if first_step >= epochs * per_epoch:
        raise PlanError(
            f"rewind_step {first_step} leaves nothing to train: the training has {epochs * per_epoch} steps"
        )

    def make() -> dict[str, Any]:
        optimizer = fit_in(
            session, job.setting, job.folder, network, phase="retrain", cycle=cycle, epochs=epochs, first_step=first_step,
            lr=_retrain_schedule(job, phase), method=Method(masks), extra=[], momenta=momenta,
        )  # fmt: skip
        done = epochs - first_step // per_epoch
        return _finish(job, network, masks, optimizer_state(optimizer, network), epochs=done)

    return make


def dense_schedule(train: Train, steps_per_epoch: int) -> Callable[[int], float]:
    """Returns the learning rate of the training's settings by 0-based step."""
    return schedules.dense(
        train.schedule,
        lr=train.lr,
        total_steps=train.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        milestones=train.milestones,
        gamma=train.gamma,
        warmup_epochs=train.warmup_epochs,
        restarts=methods.restarts(train, steps_per_epoch),
    )


def _retrain_schedule(job: Job, phase: Retrain) -> Callable[[int], float]:
    assert job.parent is not None
    train = job.setting.train
    per_epoch = job.setting.data.steps_per_epoch(train.batch_size)
    name = rewind.schedule(phase)
    if phase.rewind_step is not None:
        return dense_schedule(train, per_epoch)
    return schedules.retraining(
        name,
        original=dense_schedule(train, per_epoch),
        total_steps=train.epochs * per_epoch,
        steps=rewind.epochs(phase, train.epochs) * per_epoch,
        impact=impact(job.setting, job.parent, job.setting.build(train.seed), name),
        warmup_steps=round(train.warmup_epochs * per_epoch),
        lr=phase.schedule_lr,
        warmup=phase.schedule_warmup or 0.0,
    )


def _finish(
    job: Job, network: nn.Module, masks: Masks | None, momenta: dict[str, Tensor], epochs: int
) -> dict[str, Any]:
    """Writes weights, masks and momenta; returns the summary, which the caller writes last."""
    state = checkpoint.state(network)
    if masks is not None:
        if bad := masks.violations(state):
            raise PlanError(
                f"pruned weights of '{bad[0]}' are not +0 at the end of run '{job.folder}'; nothing is recorded"
            )
        masks.save(job.folder / runs.MASKS)
    checkpoint.save(job.folder / runs.WEIGHTS, state)
    checkpoint.save(job.folder / runs.MOMENTA, momenta)
    records = runs.log(job.folder)
    measured = measure(job.setting, network, masks)
    trained = sum(r["train_seconds"] for r in records)
    images = job.setting.data.sizes["train"] * len(records)
    return summarize(
        job.setting,
        job.folder,
        job.phase.phase,
        measured,
        epochs=epochs,
        seconds=sum(r["seconds"] for r in records) or None,
        images_per_second=images / trained if trained else None,
    )


def _masked(momenta: dict[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the momenta with those of pruned weights as +0."""
    out = {}
    for name, tensor in momenta.items():
        mask = masks.get(name.partition(":")[2])
        out[name] = tensor if mask is None or tensor.ndim == 0 else tensor.masked_fill(~mask.to(tensor.device), 0.0)
    return out
