"""The run folder as text: names of files, digests, done or not, parents, listing. Nothing here imports torch.

A run is one phase done. Its folder is named by a digest of its own settings and its parent's digest; `summary.json`, written
last and by rename, means done. Nothing in a run folder is a pickle.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pruning.plan import PHASES, Phase, PlanError, Train, digest, make
from pruning.plan.lengths import counted
from pruning.record.schemas import LogRecord, PhaseRecord, Summary
from pruning.record.text import LOG_BYTES, checked, parse, read_object, read_text
from pruning.record.writing import replacing

PHASE, ENV, LOG, SUMMARY = "phase.json", "env.json", "log.jsonl", "summary.json"
WEIGHTS, MASKS, MOMENTA, RESUME = (
    "weights.safetensors",
    "masks.safetensors",
    "momenta.safetensors",
    "resume.safetensors",
)

CHAIN = 10_000  # runs in one history, at most

RESULT_KEYS = (
    "run", "phase", "model", "data", "seed", "device", "backend", "epochs", "accuracy", "loss", "val_accuracy", "metric",
    "metric_name", "metric_scale", "val_metric", "sparsity", "model_sparsity",
    "compression", "params", "nonzero", "macs", "sparse_macs", "speedup", "seconds", "images_per_second",
)  # fmt: skip


def epoch_file(epoch: int) -> str:
    """Returns the file name of the state that was kept after `epoch` epochs; 0 is the initialization."""
    return "init.safetensors" if epoch == 0 else f"epoch-{epoch:04d}.safetensors"


def step_file(step: int) -> str:
    """Returns the file name of the state that was kept after `step` steps; 0 is the initialization."""
    return epoch_file(0) if step == 0 else f"step-{step:07d}.safetensors"


def kept_steps(run: Path) -> list[int]:
    """Returns the steps whose state the run kept, sorted."""
    found = [int(p.stem[5:]) for p in run.glob("step-*.safetensors") if p.stem[5:].isdigit()]
    return sorted([0] * (run / epoch_file(0)).exists() + found)


def kept_epochs(run: Path) -> list[int]:
    """Returns the epochs whose state the run kept, sorted."""
    found = [int(p.stem[6:]) for p in run.glob("epoch-*.safetensors") if p.stem[6:].isdigit()]
    return sorted([0] * (run / epoch_file(0)).exists() + found)


def slug(spec: str) -> str:
    """Returns a name fit for a folder: `nets/mine.py:build` becomes `mine_build`, `torchvision:resnet18` `torchvision_resnet18`."""
    head, sep, tail = spec.rpartition(":")
    head = Path(head).stem if head.endswith(".py") else head
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{head}{sep}{tail}" if sep else spec).strip("_.-") or "x"


def folder_name(phase: Phase, root: Train, digest: str) -> str:
    """Returns `<model>-<data>-s<seed>-<phase>-<8 hex>`."""
    return f"{slug(root.model)}-{slug(root.data)}-s{root.seed}-{phase.phase}-{digest[:8]}"


def append_log(run: Path, record: Mapping[str, Any]) -> None:
    """Appends one line to log.jsonl."""
    try:
        with (run / LOG).open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise PlanError(f"cannot write {run / LOG}: {error.strerror}") from None


def sync_log(run: Path) -> None:
    """Has log.jsonl reach the disk, before a state that counts on its lines does."""
    if (run / LOG).exists():
        try:
            with (run / LOG).open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise PlanError(f"cannot write {run / LOG}: {error.strerror}") from None


def trim_log(run: Path, epoch: int) -> None:
    """Drops the lines of log.jsonl past `epoch`: those of epochs that are about to be run again."""
    if (run / LOG).exists():
        kept = [json.dumps(record) for record in log(run) if record["epoch"] <= epoch]
        with replacing(run / LOG) as part:
            part.write_text("".join(line + "\n" for line in kept))


# --- reading ------------------------------------------------------------------------------------------------------------------


def is_run(run: Path) -> bool:
    """Returns whether the folder is a run, finished or not."""
    return (run / PHASE).is_file()


def is_done(run: Path) -> bool:
    """Returns whether the run has finished."""
    return (run / SUMMARY).is_file()


def check_run(run: Path, done: bool = True) -> Path:
    """Returns the folder; raises PlanError where it is no run or, with `done`, where it has not finished."""
    if not run.exists():
        raise PlanError(f"run '{run}' does not exist")
    if not is_run(run):
        inside = sum(is_run(folder) for folder in run.iterdir()) if run.is_dir() else 0
        more = f"; it holds {counted(inside, 'run')}, which `prune list runs --out {run}` shows" if inside else ""
        raise PlanError(f"'{run}' is no run folder: it has no {PHASE}{more}")
    if done and not is_done(run):
        raise PlanError(f"run '{run}' has not finished; the command that started it continues it")
    return run


def read_record(run: Path) -> dict[str, Any]:
    """Returns phase.json: schema, settings, parent, digest, code (paths of the user's source files), data_dir, seal."""
    path = check_run(run, done=False) / PHASE
    record = read_object(path)
    checked(PhaseRecord, record, path)
    kind = record["settings"].get("phase")
    if not isinstance(kind, str) or kind not in PHASES:
        raise PlanError(f"{path} is damaged: phase {kind!r} is none of {', '.join(PHASES)}")
    return record


def read_phase(run: Path) -> Phase:
    """Returns the settings of the run's phase."""
    settings: dict[str, Any] = read_record(run)["settings"]
    try:
        return make(PHASES[settings["phase"]], settings)
    except PlanError as error:
        raise PlanError(f"{run / PHASE}: {error}") from None


def read_summary(run: Path) -> dict[str, Any]:
    """Returns summary.json, with `run` as the folder's path here and now."""
    path = check_run(run) / SUMMARY
    summary = read_object(path)
    checked(Summary, summary, path)
    if "metric" not in summary:  # of a version that knew classification alone
        summary |= {"metric": summary.get("accuracy"), "metric_name": "accuracy", "metric_scale": 100.0}
        summary |= {"val_metric": summary.get("val_accuracy")}
    return {**summary, "run": str(run)}


def read_network(run: Path) -> dict[str, Any]:
    """Returns summary.json as :func:`read_summary` does; raises PlanError where it lacks what the network is built from."""
    summary = read_summary(run)
    for key in ("input", "classes"):
        if summary.get(key) is None:
            raise PlanError(f"{run / SUMMARY} is damaged: it has no '{key}'")
    return summary


def result(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the result keys of a summary, those that do not apply as None."""
    return {key: summary.get(key) for key in RESULT_KEYS}


def log(run: Path) -> list[dict[str, Any]]:
    """Returns the lines of log.jsonl; a torn last line, left by a kill in mid-write, is passed over."""
    path = run / LOG
    records = []
    lines = read_text(path, LOG_BYTES).splitlines() if path.exists() else []
    for i, line in enumerate(lines):
        try:
            record = parse(line)
            checked(LogRecord, record, path)
            records.append(record)
        except ValueError as error:
            if i + 1 < len(lines) or isinstance(
                error, PlanError
            ):  # a torn line is no JSON, and so no record of another type
                reason = str(error).removeprefix(f"{path} is damaged: ")
                raise PlanError(f"{path} is damaged in line {i + 1}: {reason}") from None
    return records


def history(run: Path, read: Callable[[Path], dict[str, Any]] | None = None) -> list[Path]:
    """Returns the chain of parents, oldest first, ending with the run itself; `read` may stand for :func:`read_record`."""
    chain, names = [run], {run.name}
    while (parent := (read or read_record)(chain[0]).get("parent")) is not None:
        if not fit_name(parent) or parent in names or len(chain) > CHAIN:
            raise PlanError(f"{chain[0] / PHASE} is damaged: parent {parent!r} is no folder name of an earlier run")
        folder = chain[0].parent / parent
        if not is_run(folder):
            raise PlanError(f"run '{chain[0]}' needs its parent '{parent}' beside it, in {chain[0].parent}")
        names.add(parent)
        chain.insert(0, folder)
    return chain


def fit_name(name: str) -> bool:
    """Returns whether a run folder may be called so: one line, no way out of its folder, and printable everywhere."""
    return (
        name not in ("", ".", "..")
        and "/" not in name
        and name.isprintable()
        and len(name.encode(errors="replace")) < 256
    )


def check_digest(run: Path) -> None:
    """Raises PlanError where the settings of the run, or of one before it, are not those that its digest and summary are of."""
    parent = ""
    for folder in history(run):
        record = read_record(folder)
        if digest(read_phase(folder), parent) != record["digest"]:
            raise PlanError(
                f"{folder / PHASE} was changed: its settings or its parent are not those that its digest is of"
            )
        made = read_object(folder / SUMMARY).get("run") if is_done(folder) else None
        if isinstance(made, str) and re.search("-[0-9a-f]{8}$", made) and made[-8:] != record["digest"][:8]:
            raise PlanError(f"{folder / PHASE} is of another run than {SUMMARY}, which is of run '{made}'")
        parent = record["digest"]


def train_settings(run: Path) -> Train:
    """Returns the settings of the training that the run's history begins with."""
    root = history(run)[0]
    phase = read_phase(root)
    if not isinstance(phase, Train):
        raise PlanError(f"{root / PHASE} is damaged: a history begins with a train phase, not with '{phase.phase}'")
    return phase


def _begun(run: Path) -> tuple[float, str]:
    """Returns when a run began, as far as its files tell, and its name."""
    return (run / PHASE).stat().st_mtime, run.name


def listing(out: Path) -> list[dict[str, Any]]:
    """Returns what lies under `out`, the oldest first: summaries with parents, and what is known of unfinished runs."""
    rows = []
    for folder in sorted((p for p in out.iterdir() if is_run(p)), key=_begun) if out.is_dir() else []:
        try:
            if is_done(folder):
                rows.append({**read_summary(folder), "parent": read_record(folder).get("parent"), "done": True})
            else:
                record = read_record(folder)
                phase = read_phase(folder).phase
                rows.append({"run": str(folder), "phase": phase, "parent": record.get("parent"), "done": False})
        except PlanError as error:
            rows.append({"run": str(folder), "phase": None, "done": False, "error": str(error)})
    return rows
