"""`prune flops`: MACs per layer and in all, dense and sparse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pruning import plan
from pruning.plan import PlanError, choices, suggest
from pruning.record import runs

from . import options, screen_tables
from .inputs import merged, run_folder, shape
from .output import emit, emit_json
from .screen import Screen


def flops(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="A run folder, or - to read it from standard input.",
            autocompletion=options.run_folders,
        ),
    ] = None,
    model: options.Model = None,
    data: options.Data = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="CxHxW",
            help="Shape of one image, with --model, where there is no --data.",
            rich_help_panel=options.NETWORK,
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(help="Number of classes, with --input." + options.default("10"), rich_help_panel=options.NETWORK),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="An option of the --model, such as width=2, or with --data a setting of a training: data_options.KEY, "
            "model_options.KEY and so on. Repeatable.",
            rich_help_panel=options.NETWORK,
        ),
    ] = None,
    convention: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="true: by the output's true shape; weights: without products of activations, such as attention's; "
            "shrinkbench: as that tool counts. One of: true, weights, shrinkbench.",
            rich_help_panel=options.PLACE,
            autocompletion=options.complete(choices(plan.Convention)),
        ),
    ] = "true",
    data_dir: options.DataDir = None,
    download: options.Download = False,
    trust_code: options.TrustCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Count multiply-accumulates (MACs) and weights per layer, dense and without the zeros.

    One MAC is one multiplication and one addition, two FLOPs. The speedup is theoretical: all MACs over those with a
    nonzero weight. What cannot be counted is listed.
    """
    if (run is None) == (model is None):
        raise typer.BadParameter("name a RUN, or give --model and --input or --data")
    if convention not in choices(plan.Convention):
        known = choices(plan.Convention)
        raise PlanError(
            f"convention '{convention}' is unknown{suggest(convention, known)}; allowed: {', '.join(known)}"
        )
    if download and data is None:
        raise typer.BadParameter("--download is for --data")
    if run is not None:
        folder = run_folder(run)
        report = of_run(folder, convention, trust_code)
        left = runs.read_summary(folder).get("unpruned") or []
    else:
        if (size is None) == (data is None):
            raise typer.BadParameter("--model needs --input, the shape of one image, such as 3x32x32, or --data")
        if data is not None:
            if classes is not None:
                raise typer.BadParameter("--classes is for --input; --data has its own")
            where = {"data_dir": data_dir, "download": download, "tell": Screen(quiet=quiet).tell}
            report, left = _of_training(str(model), data, settings or (), where, convention)
        else:
            image = shape(str(size))
            if ":" not in str(model) and len(image) != 3:
                raise PlanError(f"input '{size}' is no image; write channels x height x width, such as 3x32x32")
            report, left = _of_model(str(model), image, classes or 10, settings or (), convention)
    if json:
        emit_json({**as_json(report), "unpruned": left})
        return
    screen = Screen(quiet=quiet)
    screen.table(*screen_tables.layers(report))
    screen.plain([*screen_tables.left_dense(left, report), *(f"not counted: {entry}" for entry in report.uncounted)])
    emit(folder if run is not None else report.macs)


def of_run(folder: Path, convention: str = "true", trust_code: bool = False) -> Any:
    """Returns the count of a run's network, pruned weights not counted as nonzero."""
    from pruning import engine, trees
    from pruning.flops import count_macs

    network = engine.load_model(folder, trust_code=trust_code)
    summary = runs.read_network(folder)
    example = trees.blank(summary["input"], summary.get("input_types"))
    return count_macs(network, example, convention=convention)


def _of_training(
    model: str, data: str, pairs: Sequence[str], where: dict[str, Any], convention: str
) -> tuple[Any, Any]:
    """Returns the count of the network that a training would begin with, on one example of its data, and what is left dense."""
    from pruning.engine.session import open_session, workbench
    from pruning.flops import count_macs
    from pruning.record.stamp import stamp

    changes = merged({"model": model, "data": data}, pairs)
    phase = plan.make(plan.Train, {key: changes.pop(key) for key in ("model", "data")})
    own = {key: value for key, value in changes.items() if key.partition(".")[0] in plan.Train.model_fields}
    own |= {f"model_options.{key}": value for key, value in changes.items() if key not in own}
    train, code = stamp(plan.override(phase, own))
    bench = workbench(open_session("cpu", **where), train, code, None)
    network = bench.build(train.seed).eval()
    return count_macs(network, bench.data.example(), convention=convention), _left_dense(network)


def _of_model(name: str, size: tuple[int, ...], classes: int, pairs: Sequence[str], convention: str) -> tuple[Any, Any]:
    import torch

    from pruning import models
    from pruning.flops import count_macs

    settings = {key.removeprefix("model_options."): value for key, value in plan.parse_set(pairs).items()}
    network = models.build(name, size, classes, options=settings, seed=0).eval()
    return count_macs(network, torch.zeros(1, *size), convention=convention), _left_dense(network)


def _left_dense(network: Any) -> list[dict[str, Any]]:
    """Returns what a pruning of the network would leave dense; nothing where it cannot be pruned at all."""
    from pruning.masks import prunable, unpruned

    try:
        return unpruned(network, prunable(network))
    except PlanError:
        return []


def as_json(report: Any) -> dict[str, Any]:
    """Returns the count with the keys of `prune flops --json`."""
    keys = ("macs", "sparse_macs", "speedup", "params", "nonzero")
    layers = [{key: getattr(layer, key) for key in LAYER_KEYS} for layer in report.layers]
    return {**{key: getattr(report, key) for key in keys}, "layers": layers, "uncounted": list(report.uncounted)}


LAYER_KEYS = ("name", "type", "params", "nonzero", "macs", "sparse_macs")
