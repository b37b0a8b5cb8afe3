"""`prune sweep`: a whole study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from pruning.plan import PlanError
from pruning.plan.lengths import counted
from pruning.record import runs
from pruning.record.stamp import coded
from pruning.record.trust import allow_file
from pruning.study import sweep
from pruning.study.sweep.executors import EXECUTORS, Place

from . import options
from .cost import show_cost
from .formats import duration, metric, sparsity
from .output import emit, emit_json
from .screen import Screen
from .screen_tables import Table
from .work import refuse_dry_download

STUDY = "Study"


def sweep_study(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="A study of `prune list studies` or a TOML file.",
            autocompletion=options.complete(sweep.study_names),
        ),
    ],
    scale: Annotated[
        float,
        typer.Option(
            help="Shorten every training and retraining in proportion, for a quick look.", rich_help_panel=STUDY
        ),
    ] = 1.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed before.", rich_help_panel=STUDY)
    ] = False,
    share: Annotated[
        str | None,
        typer.Option(metavar="INDEX/COUNT", help="Carry out one share of the study only.", rich_help_panel=STUDY),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Phases at the same time; more than there are GPUs share them."
            + options.default("one per GPU, or one per core divided by --threads"),
            rich_help_panel=options.PLACE,
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(
            min=1,
            help="CPU threads of each phase. Results are bit-identical for the same number only.",
            rich_help_panel=options.PLACE,
        ),
    ] = 1,
    executor: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="local (processes on this machine) or ray (a cluster).",
            rich_help_panel=options.PLACE,
            autocompletion=options.complete(EXECUTORS),
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the Ray cluster." + options.default("RAY_ADDRESS, or a new local one"),
            rich_help_panel=options.PLACE,
        ),
    ] = None,
    gpus_per_run: Annotated[
        float, typer.Option(min=0.0, help="Share of a GPU that a phase takes on Ray.", rich_help_panel=options.PLACE)
    ] = 0.0,
    emit_slurm: Annotated[
        bool,
        typer.Option(
            "--emit-slurm",
            help="Print an sbatch array script of --jobs elements; run nothing.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Show what the study costs; run nothing.", rich_help_panel=options.OUTPUT)
    ] = False,
    throughput: Annotated[
        str | None,
        typer.Option(
            metavar="N|RUN",
            help="With --cost, training images a second, or a finished run that measured them: tells the time.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --cost, the training images of a data set whose size is not known, 1281167 of ImageNet.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    out: options.Out = Path("runs"),
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    download: options.Download = False,
    trust_code: options.TrustCode = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Carry out a study: a grid of settings and seeds, with what its plans share done once.

    Finished phases are reused and interrupted ones resumed, so the same command goes on after a crash. A phase that fails stops
    only what hangs on it. The result is the path of the study's record, from which `prune report` draws tables and figures.
    """
    EXECUTORS.known(executor)
    refuse_dry_download(dry_run, download)
    if download and emit_slurm:
        raise typer.BadParameter(
            "--emit-slurm runs nothing: give --download without it, before the script is submitted"
        )
    if not cost and (throughput is not None or images is not None):
        raise typer.BadParameter(
            f"{'--throughput' if throughput is not None else '--images'} is used with --cost alone"
        )
    loaded = sweep.load_study(study)
    points = sweep.expand(loaded, scale)
    if study.endswith(".toml"):
        phases = (phase for point in points for phase in point.phases)
        allow_file((code for phase in phases for code in coded(phase).values()), f"study '{study}'", trust_code)
    if emit_slurm:
        count = jobs or min(len(points), 16)
        command = _command(study, scale, out, device, data_dir, trust_code)
        typer.echo(sweep.script(loaded.name, command, count, threads, device != "cpu"), nl=False)
        return
    graph = sweep.build(points, out)
    mine = graph
    if share is not None:  # other shares may need what this one is done with
        loaded = loaded.model_copy(update={"keep": "all"})
        mine = sweep.build(sweep.share(points, *sweep.parse_share(share)), out)
    if cost:
        show_cost(loaded.name, len(points), mine, out, throughput, images, json, quiet)
        return
    slots, gpus = _slots(jobs, threads, device)
    work = sweep.Sweep(loaded, mine, out, retry_failed=retry_failed and not dry_run)
    if dry_run:
        status = work.status(slots)
        with Screen(quiet=quiet) as screen:
            screen.table(*_plan_table(loaded.name, len(points), mine, status, slots))
        facts = {
            "study": loaded.name,
            "runs": len(points),
            **_counts(mine, status),
            "seconds_left": status.seconds_left,
        }
        emit_json(facts) if json else emit(str(out / "studies" / f"{loaded.name}.json"))
        return
    if download:
        _fetch(mine, data_dir, quiet)
    record = sweep.write_record(loaded, points, graph, out, scale)
    where = {
        "device": device,
        "data_dir": None if data_dir is None else str(data_dir.resolve()),
        "trust_code": trust_code,
    }
    with Screen(quiet=quiet) as screen:
        place = Place(jobs, slots, threads, gpus, gpus_per_run, address)
        pool: sweep.Executor = EXECUTORS.find(executor).load()(place)
        outcome = work.carry_out(pool, where, _View(screen, out).tell)
    facts = {"study": loaded.name, "record": str(record), "runs": len(points), **_counts(mine, work.status(slots))}
    facts |= {"ran": outcome.ran, "failures": [{"run": run, "error": error} for run, error in outcome.failed.items()]}
    emit_json(facts) if json else emit(record)
    if outcome.failed:
        run, error = next(iter(outcome.failed.items()))
        raise PlanError(
            f"{len(outcome.failed)} of {counted(len(mine.nodes), 'phase')} failed, and {counted(len(outcome.blocked), 'phase')} "
            "could not begin; the first, "
            f"{out / run}: {error} (--retry-failed tries again)"
        )


def _fetch(graph: sweep.Graph, data_dir: Path | None, quiet: bool) -> None:
    """Fetches the study's data sets that are missing, once and before its phases begin side by side."""
    from pruning.data.downloading import DOWNLOADS, fetch

    named = list(dict.fromkeys(node.train.data for node in graph.nodes.values()))
    with Screen(quiet=quiet) as screen:
        for name in [name for name in named if name in DOWNLOADS] or named:  # the latter says what can be fetched
            fetch(name, data_dir, screen.tell)


def _command(study: str, scale: float, out: Path, device: str, data_dir: Path | None, trust_code: bool) -> list[str]:
    """Returns this command for another machine: paths absolute, defaults left out."""
    words = ["prune", "sweep", str(Path(study).resolve()) if study.endswith(".toml") else study]
    words += ["--out", str(out.resolve()), "--device", device, "--quiet"]
    words += ["--scale", f"{scale:g}"] if scale != 1 else []
    words += ["--data-dir", str(data_dir.resolve())] if data_dir else []
    return [*words, "--trust-code"] if trust_code else words


def _slots(jobs: int | None, threads: int, device: str) -> tuple[int, int]:
    """Returns (phases at the same time, GPUs to spread them over)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device in ("auto", "cuda"):
        import torch

        if gpus := torch.cuda.device_count():
            return jobs or gpus, gpus
    return jobs or max(1, cores // threads), 0


def _counts(graph: sweep.Graph, status: sweep.Status) -> dict[str, Any]:
    return {
        "phases": status.phases,
        "shared": graph.asked - status.phases,
        "done": status.done,
        "failed": status.failed,
        "blocked": status.blocked,
        "epochs_left": round(status.epochs - status.epochs_done, 6),
    }


def _plan_table(name: str, count: int, graph: sweep.Graph, status: sweep.Status, slots: int) -> Table:
    left = "not known before a first run" if status.seconds_left is None else f"about {duration(status.seconds_left)}"
    epochs = f"{round(status.epochs - status.epochs_done, 6)}"
    if status.unknown:
        epochs += f", of lengths in steps each counted as 1 ({counted(status.unknown, 'phase')})"
    rows = [
        ["runs (combinations x seeds)", str(count)],
        ["phases of all their plans", str(graph.asked)],
        ["distinct phases", f"{status.phases} ({graph.asked - status.phases} saved by sharing)"],
        ["done", str(status.done)],
        ["failed, and hanging on those", f"{status.failed}, {status.blocked}"],
        ["epochs that remain", epochs],
        [f"time that remains, {slots} at a time", left],
    ]
    return f"Study {name}", ["", ""], rows


class _View:
    """What a study shows: bars on a terminal, a line per phase that ends elsewhere."""

    def __init__(self, screen: Screen, out: Path) -> None:
        self.screen, self.out = screen, out
        self.status: sweep.Status | None = None

    def tell(self, event: sweep.Message | sweep.Status) -> None:
        """Shows where the study stands, or what has just happened."""
        if isinstance(event, sweep.Message):
            self._message(event)
            return
        self.status = event
        left = "" if event.seconds_left is None else f"about {duration(event.seconds_left)} left"
        failed = f", {event.failed} failed" if event.failed else ""
        bars = {
            "phases": (event.done, event.phases, "phases", f"{event.phases - event.done} to go{failed}"),
            "epochs": (event.epochs_done, event.epochs, "epochs", left),
        }
        bars |= {folder: (epoch, epochs, "epochs", "") for folder, (epoch, epochs) in sorted(event.running.items())}
        self.screen.board(bars)

    def _message(self, message: sweep.Message) -> None:
        count = f"[{self.status.done + (message.kind == 'done')}/{self.status.phases}] " if self.status else ""
        if message.kind == "done":
            result = runs.read_summary(self.out / message.folder)
            facts = f"{result['metric_name']} {metric(result)}, sparsity {sparsity(result)}"
            self.screen.plain([f"{count}{message.folder}: {facts}, {duration(result['seconds'])}"])
        else:
            self.screen.plain([f"{count}{message.kind}: {message.folder}: {message.text}"])
