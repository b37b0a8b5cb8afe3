"""What a plan would do, found out before anything is written, and refused where it cannot be done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pruning.engine import decide
from pruning.engine.adopting import take
from pruning.engine.results import load_state
from pruning.engine.session import Session, Workbench, open_session, recorded, workbench
from pruning.flops import count_macs
from pruning.masks import Masks, prunable
from pruning.plan import Phase, PlanError, Prune, Retrain, Train, digest, techniques
from pruning.plan.completion import complete, method_settings
from pruning.plan.lengths import in_epochs, in_steps, known_epochs, point
from pruning.record import kept, runs, whole
from pruning.record.stamp import stamp
from pruning.training import methods


def preview(phases: Sequence[Phase], parent: Path | None, out: Path, **options: Any) -> list[dict[str, Any]]:
    """Returns what running the phases would do, a row each, and writes nothing; options as of advance().

    Keys: phase, run (the folder's path), done, epochs, steps, macs (of one image, dense), sparse_macs (None where the masks are
    not known yet), settings. Raises PlanError for what no training in between can make possible.
    """
    return look_ahead(open_session(**options), phases, parent, out)


def look_ahead(session: Session, phases: Sequence[Phase], parent: Path | None, out: Path) -> list[dict[str, Any]]:
    """Returns the rows of :func:`preview`."""
    if parent is None:
        first = phases[0]
        if not isinstance(first, Train):
            raise PlanError(f"a {first.phase} phase needs a run to start from")
        train, code = stamp(first)
        data_dir, name, masked, sparsity = None, "", False, 0.0
    else:
        runs.check_run(parent)
        train, code, data_dir = recorded(session, parent)
        name = runs.read_record(parent)["digest"]
        masked = whole.held(parent, runs.MASKS) is not None
        sparsity = runs.read_summary(parent)["sparsity"]
    where = workbench(session, train, code, data_dir)
    network = where.build(train.seed)
    where.check(network)
    check_goals(phases, where, network, None if parent is None else load_state(parent, network)[0])
    macs = count_macs(network, where.data.example()).macs
    per_epoch = where.data.steps_per_epoch(train.batch_size)
    if train.adopted is not None and parent is None:
        assert session.weights is not None
        masked = take(network, session.weights, train.adopted, session.tell) is not None
    elif parent is None:
        check_points(train, per_epoch)
        check_kept(phases, train, per_epoch)
        methods.for_training(train, per_epoch).attach(network)
        masked = train.method != "none"
    rows = []
    for phase in phases:
        phase = train if isinstance(phase, Train) else stamp(complete(phase, train))[0]
        trains = isinstance(phase, Train) and phase.adopted is None
        steps, skipped = in_steps(train.epochs, per_epoch) if trains else 0, 0
        if isinstance(phase, Prune):
            masked = True
            if phase.structure == "weights":
                if phase.sparsity < sparsity - 1e-9:
                    raise PlanError(f"sparsity {phase.sparsity:g} is less than the present sparsity, {sparsity:g}")
                sparsity = phase.sparsity
        elif isinstance(phase, Retrain):
            check_retrain(phase, masked, "the run before it")
            if phase.method != "none":
                methods.for_training(method_settings(phase, train), per_epoch).attach(where.build(train.seed))
                masked = True
            if parent is not None:
                kept.find_state(phase, runs.history(parent)[0], train.epochs)
            steps = techniques.steps(phase, train.epochs, per_epoch)
            skipped = techniques.first_step(phase)
        name = digest(phase, name)
        folder = out / runs.folder_name(phase, train, name)
        done = runs.is_run(folder) and runs.is_done(folder)
        rows.append(
            {
                "phase": phase.phase,
                "run": str(folder),
                "done": done,
                "epochs": in_epochs(steps - skipped // per_epoch * per_epoch, per_epoch),
                "steps": steps - skipped,
                "macs": macs,
                "sparse_macs": runs.read_summary(folder)["sparse_macs"] if done else (None if masked else macs),
                "settings": phase.model_dump(mode="json"),
            }
        )
    return rows


def check_goals(phases: Sequence[Phase], where: Workbench, network: nn.Module, present: Masks | None) -> None:
    """Raises PlanError where a pruning, or a later cycle of it, cannot be done to the network, whatever it learns before.

    Not known before are which filters a ranking of all together leaves, and what another pruning in between leaves.
    """
    prunings = [phase for phase in phases if isinstance(phase, Prune)]
    for phase in prunings:
        cycle = phase.model_copy(update={"sparsity": prunings[0].sparsity}) == prunings[0]
        if cycle and not (phase.structure == "filters" and phase.allocation == "global"):
            decide.check(where, network, phase, present)
            present = Masks.full(prunable(network, phase.exclude, phase.include)) if present is None else present


def check_retrain(phase: Retrain, masked: bool, run: str) -> None:
    """Raises PlanError where a retraining starts from a dense run without a method, or with one from a pruned run."""
    if phase.method == "none" and not masked:
        raise PlanError(
            f"{run} is not pruned; retrain continues a pruned run (prune prune RUN --sparsity S), or takes --method"
        )
    if phase.method != "none" and masked:
        raise PlanError(f"{run} is pruned; retrain with method '{phase.method}' starts from a dense run")


def check_points(train: Train, per_epoch: int) -> None:
    """Raises PlanError where the training has settings for what comes after its last step.

    Epochs are compared with a length in epochs where settings are read; with one in steps only here, the data being known.
    """
    total = in_steps(train.epochs, per_epoch)
    if steps := [step for step in train.keep_steps if step > total]:
        raise PlanError(f"keep_steps {steps[0]} lies beyond the last step, {total}")
    if known_epochs(train.epochs) is not None:
        return
    beyond = {
        "keep_epochs": [epoch for epoch in train.keep_epochs if epoch * per_epoch > total],
        "milestones": [epoch for epoch in train.milestones if epoch * per_epoch >= total],
        "warmup_epochs": [train.warmup_epochs] * (train.warmup_epochs * per_epoch >= total),
    }
    if late := {name: epochs[0] for name, epochs in beyond.items() if epochs}:
        told = ", ".join(f"{name} {epoch:g}" for name, epoch in late.items())
        raise PlanError(
            f"{told} in epochs of {per_epoch} steps: beyond the last step, {total}, of a training of {train.epochs}, to which they "
            f"do not scale; set {' and '.join(late)}, too"
        )


def check_kept(phases: Sequence[Phase], train: Train, per_epoch: int) -> None:
    """Raises PlanError where a phase starts from a state that the training of the same plan does not keep."""
    parts = {point(epoch, train.epochs, per_epoch) for epoch in train.keep_epochs if isinstance(epoch, float)}
    for phase in phases:
        epoch, step = None, None
        if isinstance(phase, Prune):
            wish, epoch, step = "prune", phase.at_epoch, phase.at_step
        elif isinstance(phase, Retrain):
            wish = phase.technique
            epoch, step = techniques.start(phase, train.epochs, per_epoch)
        if step and step not in {*train.keep_steps, *parts}:
            raise PlanError(
                f"{wish} starts from step {step}, which the training does not keep "
                f"(keep_steps = {list(train.keep_steps)}); add --set train.keep_steps={sorted({*train.keep_steps, step})}"
            )
        if step == 0:
            epoch = 0
        at = point(epoch, train.epochs, per_epoch) if isinstance(epoch, float) else None
        if epoch is not None and epoch not in train.keep_epochs and at not in {*train.keep_steps, *parts}:
            which = f"{epoch}" if at is None else f"{epoch} (step {at})"
            raise PlanError(
                f"{wish} starts from epoch {which}, which the training does not keep "
                f"(keep_epochs = {list(train.keep_epochs)}); add --set train.keep_epochs={sorted({*train.keep_epochs, epoch})}"
            )
