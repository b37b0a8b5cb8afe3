"""Results as tables of text: each function returns (title, columns, rows) for :meth:`screen.Screen.table`.

A column whose header begins with `>` holds numbers and is aligned to the right; one with `~` may be broken into lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.plan.lengths import counted
from pruning.record import runs

from .formats import NONE, count, duration, metric, metric_name, percent, sparsity, times

Table = tuple[str, list[str], list[list[str]]]
STATES = {"train": "dense", "prune": "pruned", "retrain": "retrained"}  # what a phase leaves
HIDDEN = ("phase", "model_code", "data_code")  # in a table of settings: digests of source files


def comparison(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Returns one row per phase; the speedup is theoretical, all MACs over those with a nonzero weight."""
    name, short = metric_name(summaries), metric_name(summaries, short=True)
    columns = ["", ">sparsity", f">{name}", f">val. {short}", ">nonzero", ">MACs", ">speedup", ">time"]
    rows = [[_state(summary), *_facts(summary)] for summary in summaries]
    return "Dense, pruned, retrained (MACs with nonzero weights; speedup in theory)", columns, rows


def _state(summary: Mapping[str, Any]) -> str:
    if summary["phase"] == "train" and summary.get("sparsity"):
        return "trained sparse"
    return STATES.get(summary["phase"], summary["phase"])


def history(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Returns one row per run of a chain of parents, oldest first."""
    columns = ["run", ">sparsity", f">{metric_name(summaries)}", ">MACs", ">speedup", ">time"]
    rows = []
    for summary in summaries:
        share, value, _, _, macs, speedup, time = _facts(summary)
        rows.append([Path(summary["run"]).name, share, value, macs, speedup, time])
    return "History (MACs with nonzero weights; speedup in theory)", columns, rows


def _facts(summary: Mapping[str, Any]) -> list[str]:
    return [
        sparsity(summary),
        metric(summary),
        metric(summary, key="val_metric"),
        count(summary.get("nonzero")),
        count(summary.get("sparse_macs")),
        times(summary.get("speedup")),
        duration(summary.get("seconds")),
    ]


def preview(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns what would be done, one row per phase."""
    columns = [">", "phase", ">epochs", ">steps", ">MACs", "done", "run"]
    body = []
    for i, row in enumerate(rows):
        numbers = [count(row["epochs"]), count(row["steps"]), count(row["macs"])]
        body.append([str(i), row["phase"], *numbers, "yes" if row["done"] else "no", Path(row["run"]).name])
    return (
        f"Plan; nothing was written (run folders in {Path(rows[0]['run']).parent}/, MACs of one image)",
        columns,
        body,
    )


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("'", "").replace(" ", "")


def layers(report: Any) -> Table:
    """Returns parameters, sparsity and MACs per layer of a count of MACs, and the totals."""
    columns = ["~layer", "type", ">weights", ">nonzero", ">sparsity", ">MACs", ">nonzero MACs"]
    rows = []
    for layer in report.layers:
        share = percent(1 - layer.nonzero / layer.params) if layer.params else NONE
        numbers = [f"{layer.params:,}", f"{layer.nonzero:,}", share, f"{layer.macs:,}", f"{layer.sparse_macs:,}"]
        rows.append([layer.name, layer.type, *numbers])
    params, nonzero = (sum(getattr(layer, key) for layer in report.layers) for key in ("params", "nonzero"))
    totals = [f"{params:,}", f"{nonzero:,}", percent(1 - nonzero / params) if params else NONE]
    rows.append(["all layers", "", *totals, f"{report.macs:,}", f"{report.sparse_macs:,}"])
    facts = [
        "weights without biases",
        "MACs of one image, FLOPs are twice as many",
        f"{report.params:,} parameters in all",
        f"speedup in theory {times(report.speedup)}",
    ]
    return f"Layers ({'; '.join(facts)})", columns, rows


def left_dense(entries: Sequence[Mapping[str, Any]], report: Any) -> list[str]:
    """Returns a line on the parameters of two or more dimensions that have no mask, if any."""
    from pruning.masks.unpruned import named as listed

    if not entries:
        return []
    out = sum(entry["weights"] for entry in entries)
    return [f"left dense: {listed(entries)}: {percent(out / report.params)} of the parameters"]


def names(kind: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    """Returns the names of a kind with a line on each."""
    return kind, ["name", "~summary"], [[entry["name"], entry["summary"]] for entry in entries]


def listing(rows: Sequence[Mapping[str, Any]], out: Path) -> Table:
    """Returns the runs under a folder; what is not done, or damaged, has its state in a column of its own."""
    unfinished = not all(row["done"] for row in rows)
    name = metric_name([row for row in rows if row.get("metric_name")])
    columns = ["~run", ">sparsity", f">{name}", ">speedup", ">time", *(["~state"] if unfinished else []), "~from"]
    body = []
    for row in rows:
        numbers = [sparsity(row), metric(row), times(row.get("speedup")), duration(row.get("seconds"))]
        state = ["" if row["done"] else row["summary"]] if unfinished else []
        parent = "-".join(str(row.get("parent") or "").rsplit("-", 2)[-2:])  # its phase and digest
        body.append([row["name"], *numbers, *state, parent])
    return f"{counted(len(rows), 'run')} in {out}/, the oldest first", columns, body


def verified(found: Sequence[Any]) -> Table:
    """Returns the state of runs, those that are whole and nothing more without a reason."""
    return (
        counted(len(found), "run"),
        ["run", "state", "~"],
        [[entry.run.name, entry.state, entry.why] for entry in found],
    )


def result(summary: Mapping[str, Any]) -> Table:
    """Returns one result, a line per fact."""
    rows = [
        ["model, data, seed", f"{summary['model']}, {summary['data']}, {summary['seed']}"],
        [metric_name([summary]), f"{metric(summary)} (validation {metric(summary, key='val_metric')})"],
        ["loss", NONE if summary["loss"] is None else f"{summary['loss']:.4f}"],
        ["sparsity", f"{sparsity(summary, 2)} (compression {times(summary['compression'])})"],
        ["parameters", f"{count(summary['params'])}, nonzero {count(summary['nonzero'])}"],
        ["MACs", f"{count(summary['macs'])}, with nonzero weights {count(summary['sparse_macs'])}"],
        ["theoretical speedup", times(summary["speedup"])],
        ["measured on", f"{summary['device']} ({summary['backend']})"],
    ]
    return f"Result of {Path(summary['run']).name}", ["", "~"], rows


def settings(phases: Sequence[Any]) -> Table:
    """Returns the settings of phases that differ from their defaults."""
    return "Settings", ["phase", "~settings"], [[phase.phase, _changed(phase)] for phase in phases]


def _changed(phase: Any) -> str:
    own = phase.model_dump(mode="json", exclude_defaults=True)
    return ", ".join(f"{key}={_short(value)}" for key, value in own.items() if key not in HIDDEN)


def shrunk(record: Mapping[str, Any]) -> Table:
    """Returns what was removed from a network, one row per tensor that has another shape now."""
    rows = [
        [name, "x".join(map(str, was)) if was else NONE, "x".join(map(str, now))]
        for name, (was, now) in record["layers"].items()
    ]
    params, macs = record["params"], record["macs"]
    facts = [
        f"{count(params[0])} parameters before, {count(params[1])} now",
        f"MACs of one image {count(macs[0])}, {count(macs[1])}",
        f"outputs differ by at most {record['difference']:.2g} on {record['examples']} random images",
    ]
    return f"Shrunk ({'; '.join(facts)})", ["~tensor", ">was", ">is"], rows


def structure(found: Mapping[str, Any]) -> Table:
    """Returns what masks leave of each layer: filters or neurons with a weight left."""
    rows = [
        [
            layer["name"],
            f"{layer['kept']:,} of {layer['weights']:,}",
            percent(layer["kept"] / layer["weights"] if layer["weights"] else None),
            f"{layer['filters_kept']} of {layer['filters']}",
            percent(1 - layer["filters_kept"] / layer["filters"] if layer["filters"] else None),
        ]
        for layer in found["layers"]
    ]
    gone = f"layers gone: {', '.join(found['layers_gone']) or 'none'}"
    facts = [f"neuron collapse {percent(found['neuron_collapse'])}: filters and neurons with no weight left", gone]
    if found["sparsity_with_inputs"] is not None:
        facts.append(f"sparsity {percent(found['sparsity_with_inputs'])} with the inputs that read no filter")
    return f"Structure ({'; '.join(facts)})", ["~layer", ">weights", ">density", ">filters", ">collapsed"], rows


def rates(
    found: Mapping[str, Any], steps: Sequence[int], per_epoch: int, length: int | float | str, total: int
) -> Table:
    """Returns the learning rates of schedules {name: step -> rate}, one row per step."""
    epochs = counted(total / per_epoch if isinstance(length, str) else length, "epoch")
    body = [[str(s), f"{s / per_epoch:.4g}", *(f"{rate(s):.4g}" for rate in found.values())] for s in steps]
    title = f"Learning rates of a retraining of {epochs}, {counted(total, 'step')}"
    return title, [">step", ">epoch", *(f">{name}" for name in found)], body


def pairs(title: str, values: Mapping[str, Any]) -> Table:
    """Returns a table of two columns, one row per key."""
    return title, ["", "~"], [[key, NONE if value is None else str(value)] for key, value in values.items()]


def trials(goal: float, done: Sequence[Any], plan: str = "") -> Table:
    """Returns the trials of a search for a sparsity, in their order; sparsity and accuracy are means over the seeds."""
    summaries = [runs.read_summary(t.runs[0]) for t in done]
    columns = [">setting", ">seeds", ">sparsity", f">{metric_name(summaries)}", "run"]
    rows = [
        [
            f"{t.value:g}",
            str(len(t.runs)),
            percent(t.sparsity, 2),
            metric({**summary, "metric": t.metric}),
            Path(t.runs[0]).name,
        ]
        for t, summary in zip(done, summaries, strict=True)
    ]
    return f"{plan}{': s' if plan else 'S'}earch for sparsity {percent(goal, 2)}", columns, rows


def compared(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns a comparison of plans, a row per plan and goal, means +- standard deviations over seeds."""
    name = metric_name(rows)
    columns = [
        "plan", ">goal", ">epochs", ">images/s", f">{name}", ">speedup", ">sparsity", ">stability", ">seeds",
    ]  # fmt: skip
    body = []
    for row in rows:
        numbers = [
            spread(row["images_per_second"], 1, 0),
            spread(row["metric"], row["metric_scale"], 2),
            spread(row["speedup"], 1, 1),
            spread(row["sparsity"], 100, 2) + _of_all(row),
            spread(row["stability"], 1, 4),
        ]
        goal = NONE if row["goal"] is None else percent(row["goal"])
        body.append([row["plan"], goal, str(row["epochs"]), *numbers, str(len(row["runs"]))])
    return f"Comparison ({name} and sparsity in %; speedup in theory)", columns, body


def _of_all(row: Mapping[str, Any]) -> str:
    own, whole = (row.get(key) for key in ("sparsity", "model_sparsity"))
    return f" ({spread(whole, 100, 2)} of all)" if own and whole and whole["mean"] < 0.9 * own["mean"] else ""


def spread(value: Mapping[str, float] | None, factor: float, digits: int) -> str:
    """Returns `93.35 +-0.13`, or the mean alone of a single seed."""
    if value is None:
        return NONE
    text = f"{factor * value['mean']:.{digits}f}"
    return text if value["std"] is None else f"{text} +-{factor * value['std']:.{digits}f}"
