"""The results of a fixed set of small runs, recorded and compared: what a change of the code alone must leave as it is.

    python tests/fixed_results.py record FILE     before the change
    python tests/fixed_results.py compare FILE    after it: names every difference, and exits with 1 where there is one

All runs go through the command line, on the CPU with one thread and fixed seeds. Of every run folder are taken its name, a
SHA-256 of each file of tensors, phase.json, and log.jsonl and summary.json without times. Digests of all recipes and studies
and what the commands print about names, counts and schedules come on top. New keys of a summary are listed and are no failure.
Bits are the same for the same processor, torch and kernels only.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

TIMES = {"seconds", "train_seconds", "images_per_second", "seconds_left"}
PLACES = {"version", "commit", "command", "data_dir", "out", "folder"}

DIGITS = ("train", "digits", "--epochs", "2", "--device", "cpu", "--quiet")
SMALL = (
    "train", "--model", "lenet-300-100", "--data", "digits", "--lr", "0.05", "--set", "batch_size=64", "--device", "cpu",
    "--quiet",
)  # fmt: skip
NORMED = (
    "train", "--model", "resnet20", "--data", "digits", "--set", "batch_size=128", "--set", "model_options.width=0.25",
    "--device", "cpu", "--quiet",
)  # fmt: skip
CONV = (
    "train",
    "--model",
    "lenet-5",
    "--data",
    "digits",
    "--lr",
    "0.05",
    "--set",
    "batch_size=64",
    "--device",
    "cpu",
    "--quiet",
)

RETRAININGS: tuple[tuple[str, ...], ...] = (
    ("--technique", "fine-tune"),
    ("--technique", "weight-rewind", "--epochs", "1"),
    ("--technique", "lr-rewind"),
    ("--technique", "low-lr-rewind", "--epochs", "1"),
    ("--technique", "reinit", "--epochs", "1"),
    *(("--schedule", name, "--epochs", "1") for name in ("slr", "clr", "llr", "allr", "allr-d2", "accallr")),
    *(("--schedule", name, "--epochs", "1", "--set", "schedule_lr=0.01") for name in ("cosine", "linear", "constant")),
)

METHODS: dict[str, tuple[str, ...]] = {
    "gmp": ("--sparsity", "0.8", "--set", "method_options.events=4"),
    "dpf": ("--sparsity", "0.8", "--set", "method_options.events=4"),
    "gsm": ("--sparsity", "0.8"),
    "lc": ("--sparsity", "0.8"),
    "lc-original": ("--sparsity", "0.8", "--set", "method_options.alternations=4"),
    "dnw": ("--sparsity", "0.8"),
    "str": ("--set", "method_options.s_init=-3.0"),
    "cs": ("--set", "method_options.l1=1e-5"),
    "dst": ("--set", "method_options.alpha=1e-3"),
}

PRUNINGS: tuple[tuple[str, ...], ...] = (
    *(("--allocation", name) for name in ("uniform", "uniform+", "erk", "lamp")),
    *(
        ("--ablation", name)
        for name in ("shuffle", "shuffle-across", "random-counts", "reinit", "invert", "normal-init")
    ),
    *(("--criterion", name, "--at-epoch", "0") for name in ("random", "snip", "grasp", "grasp-inverted", "synflow")),
    ("--criterion", "grasp-magnitude", "--rounds", "2"),
    ("--criterion", "snip", "--rounds", "3", "--set", "scoring_mode=train"),
    ("--min-per-layer", "20"),
    ("--exclude", "fc2.*"),
    ("--structure", "filters"),
    ("--structure", "filters", "--filter-norm", "l2", "--allocation", "global"),
)

STUDY = """
title = "a small grid"
base = "digits"
seeds = [0, 1]
[set]
"train.epochs" = 2
"train.keep_epochs" = [0, 1, 2]
[axes]
"prune.sparsity" = [0.5, 0.9]
"retrain.technique" = ["fine-tune", "lr-rewind"]
"""

PRINTED = (
    ("list", "--json"),
    ("schedule", "allr", "accallr", "--json", "--impact", "0.3", "--epochs", "10"),
    ("schedule", "slr", "clr", "--json"),
    ("flops", "--model", "resnet20", "--input", "3x32x32", "--json"),
    ("train", "--help"),
    ("prune", "--help"),
    ("sweep", "--help"),
)


def call(*args: str, stdin: str = "") -> str:
    """Returns what a command prints; ends the script where it fails."""
    from pruning.cli.main import app
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, list(args), input=stdin, prog_name="prune")
    if result.exit_code:
        sys.exit(f"prune {' '.join(args)}: exit code {result.exit_code}\n{result.stderr}{result.exception!r}")
    return result.stdout


def work() -> None:
    """Carries out all runs into ./runs and ./study; the current folder is the script's own."""
    (Path("small.toml")).write_text(STUDY)
    dense = call(*DIGITS)
    for train in (SMALL, CONV):
        for name, given in METHODS.items():
            if train is SMALL or name in ("gmp", "dpf", "cs", "dst"):
                call(*train, "--epochs", "2", "--method", name, *given)
    call(*SMALL, "--epochs", "1", "--set", "optimizer=adamw", "--set", "label_smoothing=0.1")
    call(*CONV, "--epochs", "1", "--set", "clip_norm=1.0", "--set", "nesterov=true", "--seed", "3")
    pruned = call("prune", "-", "--sparsity", "0.9", "--device", "cpu", "--quiet", stdin=dense)
    for given in RETRAININGS:
        call("retrain", "-", *given, "--device", "cpu", "--quiet", stdin=pruned)
    for given in PRUNINGS:
        call("prune", "-", "--sparsity", "0.7", *given, "--device", "cpu", "--quiet", stdin=dense)
    call(
        "iterate", "-", "--sparsity", "0.9", "--cycles", "2", "--epochs", "1", "--device", "cpu", "--quiet", stdin=dense
    )
    normed = call(*NORMED, "--epochs", "1")
    for given in (("--set", "recalibrate=one-pass"), ("--structure", "filters"), ("--allocation", "erk")):
        call("prune", "-", "--sparsity", "0.7", *given, "--device", "cpu", "--quiet", stdin=normed)
    filters = call(*SMALL, "--epochs", "1")
    filters = call("prune", "-", "--sparsity", "0.5", "--structure", "filters", "--device", "cpu", "-q", stdin=filters)
    call("shrink", filters.strip(), "--quiet")
    call("sweep", "small.toml", "--out", "study", "--jobs", "1", "--device", "cpu", "--quiet")
    call("report", "study", "--quiet")


def cleaned(value: Any) -> Any:
    """Returns a JSON value without times, versions and places, at any depth."""
    if isinstance(value, dict):
        return {key: cleaned(item) for key, item in value.items() if key not in TIMES | PLACES}
    return [cleaned(item) for item in value] if isinstance(value, list) else value


def tensors(path: Path) -> str:
    """Returns a digest of a file's tensors: their names, dtypes, shapes and bytes."""
    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(path, "pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name).contiguous()
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def facts() -> Iterator[tuple[str, Any]]:
    """Yields (name, what must stay) of all that lies below the current folder and of all recipes and studies."""
    for path in sorted(Path().glob("**/*")):
        if path.suffix == ".safetensors":
            yield str(path), tensors(path)
        elif path.name in ("phase.json", "summary.json", "shrink.json"):
            yield str(path), cleaned(json.loads(path.read_text()))
        elif path.name == "log.jsonl":
            yield str(path), [cleaned(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".csv":
            with path.open() as file:
                yield str(path), [cleaned(row) for row in csv.DictReader(file)]
    for args in PRINTED:
        out = call(*args)
        yield "prune " + " ".join(args), cleaned(json.loads(out)) if "--json" in args else out
    yield from planned()


def planned() -> Iterator[tuple[str, Any]]:
    """Yields the folders that every recipe and study would fill, studies as a count and a digest of the list."""
    from pruning import plan
    from pruning.study import sweep

    for name in plan.recipe_names():
        phases = plan.load_plan(name).phases
        yield f"recipe {name}", [plan.digest(phase, "") for phase in phases]
    for name in sweep.study_names():
        study = sweep.load_study(name)
        try:
            points = sweep.expand(study)
            nodes = sorted(sweep.build(points, Path("planned")).nodes)
        except plan.PlanError as error:
            yield f"study {name}", str(error)
            continue
        yield f"study {name}", [len(points), len(nodes), hashlib.sha256("\n".join(nodes).encode()).hexdigest()]


def recorded() -> dict[str, Any]:
    """Returns all facts, of runs made anew in a folder that is removed afterwards."""
    back = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder + "/state"
        os.environ["COLUMNS"] = "120"
        os.chdir(folder)
        try:
            work()
            found = dict(facts())
        finally:
            os.chdir(back)
    return json.loads(json.dumps(found))


def differences(was: Any, now: Any, where: str, fresh: list[str]) -> Iterator[str]:
    """Yields one line on each difference; keys that only `now` has go to `fresh`."""
    if isinstance(was, dict) and isinstance(now, dict):
        fresh += [f"{where}: {key}" for key in now.keys() - was.keys()]
        for key, value in was.items():
            if key in now:
                yield from differences(value, now[key], f"{where}: {key}", fresh)
            else:
                yield f"{where}: {key} is missing"
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for i, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from differences(one, other, f"{where}[{i}]", fresh)
    elif was != now:
        yield f"{where}: {str(was)[:200]} became {str(now)[:200]}"


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "compare"):
        sys.exit(__doc__)
    path = Path(sys.argv[2]).resolve()
    if sys.argv[1] == "record":
        found = recorded()
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{len(found)} facts recorded in {path}")
        return
    was, now = json.loads(path.read_text()), recorded()
    fresh: list[str] = []
    wrong = [f"{name} is missing" for name in was if name not in now]
    for name in was.keys() & now.keys():
        wrong += differences(was[name], now[name], name, fresh)
    fresh += [name for name in now if name not in was]
    print("\n".join([*(f"new: {line}" for line in sorted(fresh)), *sorted(wrong)]), end="\n" if fresh or wrong else "")
    print(f"{len(was)} facts compared: {len(wrong)} differences, {len(fresh)} new")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
