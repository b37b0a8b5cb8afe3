"""`prune schedule`: the learning rates of retraining schedules, as numbers or as a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pruning import plan
from pruning.plan import PlanError, RetrainSchedule, Train, choices
from pruning.plan.lengths import in_steps, known_epochs
from pruning.record import runs
from pruning.training.schedules import RETRAIN_SCHEDULES, tuned

from . import options, screen_tables
from .inputs import given, length
from .output import emit, emit_json
from .screen import Screen

ORIGINAL, RETRAINING = "Original training", "Retraining"
PAPER = ("ft", "lrw", "slr", "clr", "llr")  # Zimmer et al. 2023, Figure 1
POINTS = 600  # of a line of the figure
Schedule = Callable[[int], float]
TUNED = tuple(tuned())


def schedule(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help=f"Retraining schedules: {', '.join(choices(RetrainSchedule))}." + options.default(" ".join(PAPER)),
            autocompletion=options.complete(choices(RetrainSchedule)),
        ),
    ] = None,
    epochs: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Length of the retraining, in epochs or steps." + options.default("that of the training"),
            rich_help_panel=RETRAINING,
        ),
    ] = None,
    impact: Annotated[
        float | None,
        typer.Option(
            help="What the pruning cost, d1 of Zimmer et al. 2023, from 0 to 1; allr, allr-d1 and accallr need it."
            + options.default("of a pruned RUN, its own norm lost"),
            rich_help_panel=RETRAINING,
        ),
    ] = None,
    schedule_lr: Annotated[
        float | None,
        typer.Option(help=f"First rate of {', '.join(TUNED)}.", rich_help_panel=RETRAINING),
    ] = None,
    schedule_warmup: Annotated[
        float | None,
        typer.Option(help="Their warm-up, as a share of the steps.", rich_help_panel=RETRAINING),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN|RECIPE",
            help="Take the original training from a run or a recipe, in place of the options below.",
            rich_help_panel=ORIGINAL,
        ),
    ] = None,
    original_epochs: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Its length, in epochs or steps." + options.default("200"), rich_help_panel=ORIGINAL
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Its first rate." + options.default("0.1"), rich_help_panel=ORIGINAL)
    ] = None,
    kind: Annotated[str | None, options.named(plan.LrSchedule, "Its schedule.", ORIGINAL, "stepped")] = None,
    milestones: Annotated[
        str | None,
        typer.Option(
            metavar="E,E...",
            help="Epochs after which a stepped schedule drops."
            + options.default("at 45 % and 90 % of the epochs, as Zimmer et al. 2023 for CIFAR-10"),
            rich_help_panel=ORIGINAL,
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(help="Factor of each drop." + options.default("0.1"), rich_help_panel=ORIGINAL),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(help="Epochs of warm-up." + options.default("0"), rich_help_panel=ORIGINAL),
    ] = None,
    steps_per_epoch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps in an epoch." + options.default("a RUN's own, otherwise 100"), rich_help_panel=ORIGINAL
        ),
    ] = None,
    step: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            help="A step of the retraining to show, from 0 on. Repeatable." + options.default("eleven, evenly spaced"),
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw learning rate against epoch to a .svg or .png file (extra: plot).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    trust_code: options.TrustCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show the learning rates of retraining schedules, step by step, as numbers or as a figure.

    Retraining schedules derive from the schedule of the original training: that of a run, of a recipe, or as given.
    """
    from pruning import engine
    from pruning.training import schedules

    wanted = list(dict.fromkeys(names or PAPER))
    flags = given(
        epochs=length(original_epochs),
        lr=lr,
        schedule=kind,
        milestones=None if milestones is None else _numbers(milestones),
        gamma=gamma,
        warmup_epochs=warmup,
    )
    adaptive = impact is None and bool({"allr", "allr-d1"} & set(wanted))
    train, per_epoch, own_impact = _original(source, flags, adaptive, trust_code)
    per_epoch = steps_per_epoch or per_epoch or 100
    original = engine.dense_schedule(train, per_epoch)
    span = plan.make(plan.Retrain, given(epochs=length(epochs))).epochs or train.epochs
    total, steps_after = in_steps(train.epochs, per_epoch), in_steps(span, per_epoch)
    d1 = own_impact if impact is None else impact
    if impact is not None and not 0 <= impact <= 1:
        raise PlanError(f"impact must lie in [0, 1], not {impact:g}")
    _refuse_unused(wanted, impact, schedule_lr, schedule_warmup)
    for name in wanted:
        if impact is None and RETRAIN_SCHEDULES.find(name).impact and (d1 is None or name == "accallr"):
            more = "" if name == "accallr" else ", or --from with a pruned RUN"
            raise PlanError(f"'{name}' needs --impact, what the pruning cost, from 0 to 1{more}")
    found = {
        name: schedules.retraining(
            name,
            original,
            total_steps=total,
            steps=steps_after,
            impact=d1 if RETRAIN_SCHEDULES.find(name).impact and (name != "accallr" or impact is not None) else None,
            warmup_steps=round(train.warmup_epochs * per_epoch),
            lr=schedule_lr if name in TUNED else None,
            warmup=(schedule_warmup or 0.0) if name in TUNED else 0.0,
        )
        for name in wanted
    }
    steps = sorted(set(step or _spaced(steps_after, 11)))
    if steps[-1] >= steps_after:
        raise PlanError(f"step {steps[-1]} lies beyond the last step of the retraining, {steps_after - 1}")
    if plot is not None:
        _draw(plot, found, original, total, steps_after, per_epoch)
    if json:
        emit_json(
            {
                "original": {"epochs": train.epochs, "lr": train.lr, "schedule": train.schedule},
                "epochs": span,
                "steps_per_epoch": per_epoch,
                "impact": d1,
                "schedules": [
                    {"name": name, "values": [{"step": s, "epoch": s / per_epoch, "lr": rate(s)} for s in steps]}
                    for name, rate in found.items()
                ],
                "plot": plot,
            }
        )
        return
    screen = Screen(quiet=quiet)
    screen.table(*screen_tables.rates(found, steps, per_epoch, span, steps_after))
    if plot is not None:
        emit(plot)
    elif not screen.stdout_is_terminal:
        emit("\t".join(["step", *found]))
        for s in steps:
            emit("\t".join([str(s), *(f"{rate(s):.9g}" for rate in found.values())]))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise PlanError(f"milestones '{text}' must be epochs with commas between, such as 90,180") from None


def _original(
    source: str | None, flags: dict[str, Any], adaptive: bool, trust_code: bool
) -> tuple[Train, int | None, float | None]:
    """Returns (the original training, its steps in an epoch where known, the impact of the run's last pruning or None)."""
    if source is None:
        settings = {"epochs": 200, "lr": 0.1, **flags}
        whole = known_epochs(plan.make(Train, {"model": "any", "data": "any", "epochs": settings["epochs"]}).epochs)
        if settings.get("schedule", "stepped") == "stepped" and whole is not None:
            settings.setdefault("milestones", (0.45 * whole, 0.9 * whole))
        return plan.make(Train, {"model": "any", "data": "any", **settings}), None, None
    if flags:
        raise PlanError(f"'{next(iter(flags))}' cannot be given with --from, whose training has its own")
    folder = Path(source)
    if not folder.exists() or folder.suffix == ".toml":
        return plan.load_plan(source).train, None, None
    runs.read_summary(folder)
    log = runs.log(runs.history(folder)[0])
    pruned = any(runs.read_phase(run).phase == "prune" for run in runs.history(folder))
    lost = _norm_lost(folder, trust_code) if pruned and adaptive else None
    return runs.train_settings(folder), log[0]["step"] if log else None, lost


def _norm_lost(folder: Path, trust_code: bool) -> float:
    from pruning import engine
    from pruning.engine.impact import norm_lost

    return norm_lost(folder, engine.load_model(folder, trust_code=trust_code))


def _refuse_unused(names: Sequence[str], impact: float | None, lr: float | None, warmup: float | None) -> None:
    for option, value, users in (
        ("--impact", impact, tuple(name for name, entry in RETRAIN_SCHEDULES.items() if entry.impact)),
        ("--schedule-lr", lr, TUNED),
        ("--schedule-warmup", warmup, TUNED),
    ):
        if value is not None and not set(names) & set(users):
            raise PlanError(f"{option} is not used by {', '.join(names)}, only by {', '.join(users)}")


def _spaced(total: int, number: int) -> list[int]:
    """Returns up to `number` of the steps 0 .. total - 1, evenly spaced, with both ends."""
    return sorted({round(i * (total - 1) / (number - 1)) for i in range(number)})


def _draw(
    path: Path, found: Mapping[str, Schedule], original: Schedule, total: int, steps_after: int, per_epoch: int
) -> None:
    from pruning.study.report.figures import Figure, Line, Panel, save

    def line(name: str, rate: Schedule, length: int) -> Line:
        steps = _spaced(length, POINTS)
        return Line(name, [s / per_epoch for s in steps], [rate(s) for s in steps])

    before = Panel([line("original", original, total)], "original training")
    after = Panel([line(name, rate, steps_after) for name, rate in found.items()], "retraining", first=1)
    save(Figure("schedules", "Learning rates", "epoch", "learning rate", [before, after]), path)
