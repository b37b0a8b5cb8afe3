"""Whether the runs of a folder are whole: every file that they ended with, under the digests that name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pruning.errors import PlanError
from pruning.record import runs, whole

STATES = ("whole", "unfinished", "damaged", "orphaned")


@dataclass(frozen=True)
class Found:
    """A run and its state: whole, unfinished, damaged, or orphaned where a run before it is not there; `why` says what."""

    run: Path
    state: str
    why: str = ""


def verify(run: Path) -> Found:
    """Returns the state of a run, every file of it read; nothing is written, and no code of anybody's is loaded."""
    try:
        runs.read_phase(run)
        if not _parents(run):
            return Found(run, "orphaned", f"its parent '{runs.read_record(run)['parent']}' is not beside it")
        runs.check_digest(run)
        runs.log(run)
        if not runs.is_done(run):
            return Found(run, "unfinished", "the command that started it continues it")
        known = runs.read_summary(run).get("files")
        if known is None:
            return Found(run, "whole", "its files were not recorded, so that they cannot be compared")
        dropped = [name for name in known if not (run / name).exists()]
        if dropped and len(dropped) == len(known):
            return Found(run, "whole", "its tensors were dropped")
        for name in known:
            whole.held(run, name)
        for path in run.glob("*.safetensors"):
            whole.held(run, path.name)
    except PlanError as error:
        return Found(run, "damaged", str(error))
    return Found(run, "whole", _renamed(run))


def _renamed(run: Path) -> str:
    """Returns what is to be said of a folder whose name is not the one that its settings give it; else nothing."""
    name = runs.folder_name(runs.read_phase(run), runs.train_settings(run), runs.read_record(run)["digest"])
    return "" if run.name == name else f"it was renamed: its settings name it '{name}'"


def _parents(run: Path) -> bool:
    """Returns whether every run before it is there."""
    seen = {run.name}
    while (parent := runs.read_record(run).get("parent")) is not None:
        run = run.parent / parent
        if not runs.fit_name(parent) or parent in seen:
            return True  # damage, which is told as such
        if not runs.is_run(run):
            return False
        seen.add(parent)
    return True


def verify_all(paths: list[Path]) -> list[Found]:
    """Returns the state of each run, or of each run in a folder of such; raises PlanError where there is none."""
    found = []
    for path in paths:
        if runs.is_run(path):
            found.append(path)
            continue
        inside = sorted(folder for folder in path.iterdir() if runs.is_run(folder)) if path.is_dir() else []
        if not inside:
            raise PlanError(f"'{path}' is no run folder and holds none")
        found += inside
    return [verify(run) for run in found]
