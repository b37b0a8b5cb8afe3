"""What each phase does: its checks, which refuse before anything is written, then its work, which ends in a summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.engine import decide
from pruning.engine.adopting import take
from pruning.engine.fitting import fit_in, masked_state, optimizer_state, split_state
from pruning.engine.impact import impact
from pruning.engine.lookahead import check_points
from pruning.engine.results import load_state, measure, metric_on_test, neurons, summarize
from pruning.engine.session import Session, Workbench
from pruning.events import PhaseStarted
from pruning.masks import Masks
from pruning.plan import PlanError, Prune, Retrain, Train, techniques
from pruning.plan.completion import method_settings
from pruning.plan.lengths import in_epochs, in_steps
from pruning.plan.training import Adopted
from pruning.record import checkpoint, kept, runs, whole
from pruning.record.stamp import located
from pruning.seeds import derive
from pruning.training import methods, schedules
from pruning.training.loop import recalibrate
from pruning.training.methods.base import Method
from pruning.training.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Job:
    """One phase, resolved: where it goes, what it starts from, and its data at hand."""

    phase: Train | Prune | Retrain
    parent: Path | None
    folder: Path
    digest: str
    bench: Workbench
    code: dict[str, str]  # absolute paths of the source files that the phase itself names, beside the training's


def prepare(session: Session, job: Job) -> Callable[[], dict[str, Any]]:
    """Returns the function that does the phase's work; all that can be refused is refused here."""
    if isinstance(job.phase, Train):
        return _prepare_train(session, job, job.bench.located)
    if isinstance(job.phase, Prune):
        return _prepare_prune(session, job, located(job.phase, job.code))
    return _prepare_retrain(session, job, located(job.phase, job.code))


def _prepare_train(session: Session, job: Job, phase: Train) -> Callable[[], dict[str, Any]]:
    network = job.bench.build(phase.seed)
    job.bench.check(network)
    if phase.adopted is not None:
        return _prepare_adopted(session, job, network, phase.adopted)
    job.bench.check_steps(network)
    dense = decide.check_method(
        job.bench, network, phase
    )  # refuses a network in which nothing can be pruned or counted
    steps = job.bench.data.steps_per_epoch(phase.batch_size)
    total = in_steps(phase.epochs, steps)
    check_points(phase, steps)
    method = methods.for_training(phase, steps)
    extra = method.attach(network)
    lr = dense_schedule(phase, steps)
    OPTIMIZERS.find(phase.optimizer)

    def make() -> dict[str, Any]:
        if dense is not None:
            session.tell(dense)
        optimizer = fit_in(
            session, job.bench, job.folder, network, phase="train", cycle=0, total_steps=total, lr=lr,
            method=method, extra=extra, momenta={}, keep=phase.keep_epochs, keep_steps=phase.keep_steps,
        )  # fmt: skip
        before = None if phase.method == "none" else metric_on_test(job.bench, network)
        return _ended(job, network, method, optimizer, before, epochs=in_epochs(total, steps))

    return make


def _prepare_adopted(session: Session, job: Job, network: nn.Module, about: Adopted) -> Callable[[], dict[str, Any]]:
    if session.weights is None or session.weights.sha256 != about.sha256:
        raise PlanError(
            f"run '{job.folder}' was adopted from weights of SHA-256 {about.sha256[:8]}...: prune adopt makes it"
        )
    masks = take(network, session.weights, about, session.tell)

    def make() -> dict[str, Any]:
        session.tell(PhaseStarted(str(job.folder), "train", 0, 0))
        return _finish(job, network, masks, {}, epochs=0)

    return make


def _prepare_prune(session: Session, job: Job, phase: Prune) -> Callable[[], dict[str, Any]]:
    assert job.parent is not None
    network = job.bench.build(job.bench.train.seed)
    present, momenta = load_state(job.parent, network)
    if (source := decide.source(phase, job.parent)) is not None:
        weights, momenta = split_state(checkpoint.load(whole.needed(source.parent, source.name))[0])
        checkpoint.restore(network, weights, source)
    decide.check(job.bench, network, phase, present)

    def make() -> dict[str, Any]:
        session.tell(PhaseStarted(str(job.folder), "prune", 0, 0))
        masks = decide.masks(session, job.bench, network, phase, present)
        keeps = decide.put_on(job.bench, network, phase, masks)
        if phase.recalibrate == "one-pass":
            train = job.bench.train
            recalibrate(
                network, job.bench.data, job.bench.task, batch_size=train.batch_size, seed=train.seed, device=job.bench.device,
                precision=train.precision,
            )  # fmt: skip
        return _finish(job, network, masks, masked_state(momenta, masks) if keeps else {}, epochs=0)

    return make


def _prepare_retrain(session: Session, job: Job, phase: Retrain) -> Callable[[], dict[str, Any]]:
    assert job.parent is not None
    train = job.bench.located
    network = job.bench.build(train.seed)
    masks, momenta = load_state(job.parent, network)
    source = kept.find_state(phase, runs.history(job.parent)[0], train.epochs)
    if source is not None:
        weights, momenta = split_state(checkpoint.load(whole.needed(source.parent, source.name))[0])
        checkpoint.restore(network, weights, source)
    elif techniques.TECHNIQUES.find(phase.technique).weights == "fresh":
        network, momenta = job.bench.build(derive(train.seed, "reinit")), {}
    if phase.optimizer_state == "reset":
        momenta = {}
    schedule = schedules.RETRAIN_SCHEDULES.find(name := techniques.schedule(phase))
    if schedule.tuned and phase.schedule_lr is None:
        raise PlanError(f"schedule '{name}' needs schedule_lr, its initial rate")
    job.bench.check_steps(network)
    cycle = sum(isinstance(runs.read_phase(p), Retrain) for p in runs.history(job.parent)) + 1
    per_epoch = job.bench.data.steps_per_epoch(train.batch_size)
    total = techniques.steps(phase, train.epochs, per_epoch)
    first_step = techniques.first_step(phase)
    if first_step >= total:
        raise PlanError(f"rewind_step {first_step} leaves nothing to train: the training has {total} steps")
    method, extra, dense = Method(masks), [], None
    if masks is not None:
        masks.apply(network)
    else:
        if schedule.impact:
            raise PlanError(f"schedule '{name}' follows from a pruning, and run '{job.parent}' is not pruned")
        dense = decide.check_method(job.bench, network, phase)
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        method = methods.for_training(method_settings(phase, train), per_epoch)
        extra = method.attach(network)
        stored = {names[id(p)]: name for name, p in network.named_parameters() if id(p) in names}
        owners = {key: key.partition(":") for key in momenta}
        momenta = {f"{what}:{stored[owner]}": momenta[key] for key, (what, _, owner) in owners.items()}

    def make() -> dict[str, Any]:
        if dense is not None:
            session.tell(dense)
        optimizer = fit_in(
            session, job.bench, job.folder, network, phase="retrain", cycle=cycle, total_steps=total, first_step=first_step,
            lr=_retrain_schedule(job, phase), method=method, extra=extra, momenta=momenta,
        )  # fmt: skip
        before = None if phase.method == "none" else metric_on_test(job.bench, network)
        done = in_epochs(total - first_step // per_epoch * per_epoch, per_epoch)
        return _ended(job, network, method, optimizer, before, epochs=done)

    return make


def _ended(
    job: Job, network: nn.Module, method: Method, optimizer: torch.optim.Optimizer, before: float | None, epochs: float
) -> dict[str, Any]:
    """Returns the summary after leaving the network plain; `before` is its metric before a method's last pruning."""
    masks = method.finish()
    momenta = masked_state(optimizer_state(optimizer, network), masks)
    summary = _finish(job, network, masks, momenta, epochs=epochs)
    if before is None:
        return summary
    accuracy = {"accuracy_before_prune": before} if summary["accuracy"] is not None else {}
    return {**summary, **accuracy, "metric_before_prune": before}


def dense_schedule(train: Train, steps_per_epoch: int) -> Callable[[int], float]:
    """Returns the learning rate of the training's settings by 0-based step."""
    return schedules.dense(
        train.schedule,
        lr=train.lr,
        total_steps=in_steps(train.epochs, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        milestones=train.milestones,
        gamma=train.gamma,
        warmup_epochs=train.warmup_epochs,
        warmup_form=train.warmup_form,
        restarts=methods.restarts(train, steps_per_epoch),
    )


def _retrain_schedule(job: Job, phase: Retrain) -> Callable[[int], float]:
    assert job.parent is not None
    train = job.bench.located
    per_epoch = job.bench.data.steps_per_epoch(train.batch_size)
    name = techniques.schedule(phase)
    if phase.rewind_step is not None:  # the original schedule, whichever step it starts at
        return dense_schedule(train, per_epoch)
    return schedules.retraining(
        name,
        original=dense_schedule(train, per_epoch),
        total_steps=in_steps(train.epochs, per_epoch),
        steps=techniques.steps(phase, train.epochs, per_epoch),
        impact=impact(job.bench, job.parent, job.bench.build(train.seed), name),
        warmup_steps=round(train.warmup_epochs * per_epoch),
        lr=phase.schedule_lr,
        warmup=phase.schedule_warmup or 0.0,
    )


def _finish(
    job: Job, network: nn.Module, masks: Masks | None, momenta: dict[str, Tensor], epochs: float
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
    chain = [job.phase, *(runs.read_phase(p) for p in runs.history(job.parent))] if job.parent else [job.phase]
    include = {pattern for phase in chain for pattern in phase.include}
    measured = measure(job.bench, network, masks) | neurons(network, masks, sorted(include))
    trained = sum(r["train_seconds"] for r in records)
    steps = job.bench.data.steps_per_epoch(job.bench.train.batch_size)
    part = records[-1]["step"] % steps if records else 0  # of an epoch that was not finished
    images = job.bench.data.sizes["train"] * (len(records) - bool(part)) + part * job.bench.train.batch_size
    return summarize(
        job.bench,
        job.folder,
        job.phase.phase,
        measured,
        epochs=epochs,
        seconds=sum(r["seconds"] for r in records) or None,
        images_per_second=images / trained if trained else None,
    )
