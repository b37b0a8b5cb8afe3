"""`prune compare`: plans side by side, over goals and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pruning import plan
from pruning.plan import PlanError

from . import formats, options, screen_tables
from .inputs import length, load_plan, merged
from .output import emit, emit_json
from .screen import Screen
from .work import refuse_dry_download

COMPARISON = "Comparison"


def compare_plans(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="PLAN...",
            help="Recipes of `prune list recipes` or TOML files.",
            autocompletion=options.complete(plan.recipe_names),
        ),
    ],
    method: Annotated[
        list[str] | None,
        options.named(plan.MethodName, "Take each plan's training with this method instead. Repeatable.", COMPARISON),
    ] = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option(
            help="A goal for every plan. Repeatable." + options.default("each plan's own"), rich_help_panel=COMPARISON
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="LIST", help="Seeds, separated by commas.", rich_help_panel=COMPARISON)
    ] = "0",
    search: options.Search = 0,
    search_option: options.SearchOption = None,
    search_per_seed: Annotated[
        bool,
        typer.Option(
            "--search-per-seed",
            help="Find each seed a setting of its own, in place of one whose mean sparsity over the seeds meets the goal.",
            rich_help_panel=options.METHODS,
        ),
    ] = False,
    finetune_epochs: options.FinetuneEpochs = None,
    settings: options.Set = None,
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
    """Compare plans as Zimmer et al. (2023, Table 2) compare BIMP with pruning during training.

    A row per plan and goal: images per second of training, accuracy, theoretical speedup, sparsity reached, and pruning
    stability (accuracy just after the final pruning over that just before), as mean and standard deviation over seeds.
    With --finetune-epochs the better accuracy of before and after counts. --set reaches all plans.

    Where a method's sparsity is an outcome, --search N tries at most N settings for one whose mean sparsity over the
    seeds is within 0.25 points of the goal; where none is, the nearest stands in the table.
    """
    if not search and (search_option is not None or search_per_seed):
        raise typer.BadParameter(
            f"{'--search-option' if search_option is not None else '--search-per-seed'} is for --search"
        )
    if search and dry_run:
        raise typer.BadParameter("a search cannot be shown beforehand: its trials follow from one another")
    changes = merged({}, settings)
    goals = sparsity or []
    if wrong := [goal for goal in goals if not 0 < goal < 1]:
        raise PlanError(f"sparsity must lie between 0 and 1, not {wrong[0]:g}")
    plans = [plan.override_plan(load_plan(name, trust_code), changes) for name in recipes]
    from pruning.study import compare
    from pruning.study.search import Trial
    from pruning.training.methods import METHODS

    if method:
        if lost := [m for m in method if METHODS.find(m).goal and not goals]:
            raise PlanError(f"method '{lost[0]}' needs a goal: give --sparsity")
        plans = [new for old in plans for new in compare.by_method(old, method, goals[0] if goals else None)]
    refuse_dry_download(dry_run, download)
    where: dict[str, Any] = {"device": device, "data_dir": data_dir, "download": download, "trust_code": trust_code}
    if dry_run:
        planned = compare.planned(plans, goals, _seeds(seeds), out, finetune_epochs=length(finetune_epochs), **where)
        if json:
            emit_json({"rows": planned})
        else:
            _show(_plan_table(planned, out), Screen(quiet=quiet))
        return
    tried: dict[tuple[str, float], list[Trial]] = {}

    def note(plan: plan.Plan, goal: float, trial: Trial) -> None:
        tried.setdefault((plan.name, goal), []).append(trial)

    screen = Screen(quiet=quiet)
    try:
        with screen:
            rows = compare.compare(
                plans,
                goals,
                _seeds(seeds),
                out,
                finetune_epochs=length(finetune_epochs),
                trials=search,
                by=search_option,
                per_seed=search_per_seed,
                report=note,
                tell=screen.tell,
                **where,
            )
    finally:
        for (name, goal), trials in tried.items():
            screen.table(*screen_tables.trials(goal, trials, name))
    rows = [{k: _spread(v) if isinstance(v, compare.Spread) else v for k, v in row.items()} for row in rows]
    if json:
        emit_json({"rows": rows})
        return
    _show(screen_tables.compared(rows), screen)


def _plan_table(rows: list[dict[str, Any]], out: Path) -> screen_tables.Table:
    body = []
    for row in rows:
        goal = formats.NONE if row["goal"] is None else formats.percent(row["goal"])
        for phase in row["phases"]:
            numbers = [formats.count(phase[key]) for key in ("epochs", "steps")]
            done = "yes" if phase["done"] else "no"
            body.append([row["plan"], goal, str(row["seed"]), phase["phase"], *numbers, done, Path(phase["run"]).name])
    phases = {phase["run"]: phase["done"] for row in rows for phase in row["phases"]}
    left = screen_tables.counted(sum(not done for done in phases.values()), "phase")
    title = f"Comparison; nothing was written (run folders in {out}/, {len(phases)} distinct, {left} to do)"
    return title, ["~plan", ">goal", ">seed", "phase", ">epochs", ">steps", "done", "~run"], body


def _show(table: screen_tables.Table, screen: Screen) -> None:
    """Draws the table, and where standard output is no terminal, writes it there as Markdown."""
    screen.table(*table)
    if not screen.stdout_is_terminal:
        for line in _markdown(table):
            emit(line)


def _spread(found: Any) -> dict[str, Any]:
    return {"mean": found.middle, "std": found.deviation, "n": found.n}


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise PlanError(f"seeds must be different whole numbers separated by commas, not '{text}'")
    return [int(part) for part in parts]


def _markdown(table: screen_tables.Table) -> list[str]:
    """Returns the table's lines for a text file."""
    _, columns, rows = table
    heads = [column.lstrip(">~") for column in columns]
    rule = ["---:" if column.startswith(">") else "---" for column in columns]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]
