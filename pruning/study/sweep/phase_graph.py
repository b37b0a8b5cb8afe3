"""The distinct phases of a study, each once: what hangs on what, what is done, what is ready, what can be forgotten."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning import plan as plans
from pruning.plan import SCHEMA, Phase, PlanError, Prune, Retrain, Train, lengths, techniques
from pruning.plan.completion import complete
from pruning.record import kept, runs, whole, writing
from pruning.record.stamp import stamp
from pruning.record.text import read_object
from pruning.study.sweep.study import Point, Study

STUDIES, FAILED = "studies", "failed"


@dataclass(frozen=True)
class Node:
    """One phase to be done: its run folder's name, its parent's, and the training its history begins with."""

    folder: str
    phase: Phase
    parent: str | None
    train: Train

    @property
    def epochs(self) -> float | None:
        """Returns how many epochs the phase runs; 0 of a pruning, None where a length is in steps."""
        if isinstance(self.phase, Retrain):
            return techniques.epochs(self.phase, self.train.epochs)
        return lengths.known_epochs(self.phase.epochs) if isinstance(self.phase, Train) else 0


@dataclass
class Graph:
    """The phases of a study in an order in which parents come first, and each point's chain of run folders."""

    nodes: dict[str, Node] = field(default_factory=dict)
    chains: list[list[str]] = field(default_factory=list)  # one per point, without a given run's own history
    children: dict[str, list[str]] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        """Returns how many phases the plans have together, shared ones counted each time."""
        return sum(len(chain) for chain in self.chains)


def build(points: Sequence[Point], out: Path) -> Graph:
    """Returns the graph of the points' phases, named as the engine names them; writes nothing."""
    graph = Graph()
    stamped: dict[str, Train] = {}
    for point in points:
        digest, parent = "", None
        if point.parent is not None:
            if point.parent.resolve().parent != out.resolve():
                raise PlanError(f"run '{point.parent}' does not lie in '{out}', where the study's runs go")
            digest, parent = runs.read_record(point.parent)["digest"], point.parent.name
            root = runs.train_settings(point.parent)
            _check_kept(point)
        chain = []
        for phase in point.phases:
            if isinstance(phase, Train):
                key = plans.canonical(phase)
                root = stamped.setdefault(key, stamp(phase)[0])
                phase = root
            else:
                phase = stamp(complete(phase, root))[0]
            digest = plans.digest(phase, digest)
            folder = runs.folder_name(phase, root, digest)
            if folder not in graph.nodes:
                graph.nodes[folder] = Node(folder, phase, parent, root)
                if parent is not None:
                    graph.children.setdefault(parent, []).append(folder)
            chain.append(folder)
            parent = folder
        graph.chains.append(chain)
    return graph


def _check_kept(point: Point) -> None:
    assert point.parent is not None
    for phase in point.phases:
        if isinstance(phase, Retrain):
            kept.find_state(phase, runs.history(point.parent)[0], runs.train_settings(point.parent).epochs)


# --- what is done ----------------------------------------------------------------------------------------------------------------


def unfinished(graph: Graph, out: Path) -> set[str]:
    """Returns the phases that have to be run: those not done, and done ones whose dropped tensors one of those needs."""
    wanted = {folder for folder in graph.nodes if not runs.is_done(out / folder)}
    return wanted | {
        folder
        for folder in ancestors(graph, wanted) - wanted
        if not whole.intact(out / folder, graph.nodes[folder].phase)
    }


def ancestors(graph: Graph, folders: Iterable[str]) -> set[str]:
    """Returns the phases of the study that the given ones hang on."""
    found: set[str] = set()
    for folder in folders:
        parent = graph.nodes[folder].parent
        while parent in graph.nodes and parent not in found:
            found.add(parent)
            parent = graph.nodes[parent].parent
    return found


def failures(graph: Graph, out: Path) -> dict[str, dict[str, Any]]:
    """Returns {run folder: record} of the phases that failed when last tried."""
    found = {}
    for folder in graph.nodes:
        path = out / FAILED / f"{folder}.json"
        if path.is_file() and not runs.is_done(out / folder):
            found[folder] = read_object(path)
    return found


def record_failure(out: Path, node: Node, error: str, trace: str) -> dict[str, Any]:
    """Writes that the phase failed, and returns what was written."""
    (out / FAILED).mkdir(parents=True, exist_ok=True)
    record = {"schema": SCHEMA, "run": node.folder, "phase": node.phase.phase, "error": error, "traceback": trace}
    writing.write_json(out / FAILED / f"{node.folder}.json", {**record, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    return record


def forget_failure(out: Path, folder: str) -> None:
    """Removes the record of a failure."""
    (out / FAILED / f"{folder}.json").unlink(missing_ok=True)


def descendants(graph: Graph, folder: str) -> list[str]:
    """Returns all phases that hang on the one, nearest first."""
    found = list(graph.children.get(folder, []))
    for child in found:
        found += graph.children.get(child, [])
    return found


# --- what stays ------------------------------------------------------------------------------------------------------------------


def droppable(study: Study, graph: Graph, todo: Iterable[str]) -> list[str]:
    """Returns the phases whose tensors `keep` does not ask for and nothing that is still to do needs."""
    if study.keep == "all":
        return []
    stay = set(todo)
    stay |= ancestors(graph, stay)
    if study.keep != "none":
        stay |= {folder for folder, node in graph.nodes.items() if isinstance(node.phase, Train)}
    if study.keep == "points":
        stay |= {folder for chain in graph.chains for folder in results(study, graph, chain)}
    return [folder for folder in graph.nodes if folder not in stay]


def drop_tensors(out: Path, folder: str) -> None:
    """Removes the run's tensors; phase.json, env.json, log.jsonl and summary.json stay, so that it is still done."""
    for path in (out / folder).glob("*.safetensors"):
        path.unlink(missing_ok=True)


# --- the study's record ----------------------------------------------------------------------------------------------------------


def results(study: Study, graph: Graph, chain: list[str]) -> list[str]:
    """Returns the runs of a point that count as results: its last, or every retraining."""
    if study.points == "last":
        return chain[-1:]
    retrained = [folder for folder in chain if isinstance(graph.nodes[folder].phase, Retrain)]
    return retrained or chain[-1:]


def write_record(study: Study, points: Sequence[Point], graph: Graph, out: Path, scale: float) -> Path:
    """Writes out/studies/NAME.json, from which a report knows what each run is, and returns its path."""
    (out / STUDIES).mkdir(parents=True, exist_ok=True)
    axes: dict[str, list[Any]] = {}
    for point in points:
        for axis, label in point.labels.items():
            if label not in axes.setdefault(axis, []):
                axes[axis].append(label)
    told = ("title", "summary", "citation", "source", "notes", "convention", "best_over", "figures")
    entries = [
        {
            "labels": point.labels,
            "seed": point.seed,
            "runs": chain,
            "results": results(study, graph, chain),
            "goals": [_goal(graph, chain, folder) for folder in results(study, graph, chain)],
        }
        for point, chain in zip(points, graph.chains, strict=True)
    ]
    record = {"schema": SCHEMA, "study": study.name, **study.model_dump(include=set(told), mode="json")}
    variants = [axis for axis in axes if axis.endswith(" variant")]
    record |= {"scale": scale, "axes": axes, "points": entries, "best_over": [*study.best_over, *variants]}
    path = out / STUDIES / (f"{study.name}.json" if scale == 1 else f"{study.name}@{scale:g}.json")
    if not path.exists() or path.read_text() != json.dumps(record, indent=1) + "\n":
        writing.write_json(path, record)
    return path


def _goal(graph: Graph, chain: list[str], result: str) -> dict[str, Any]:
    """Returns what a result was asked for: its sparsity, its cycles and its retraining, known before it is run."""
    nodes = [graph.nodes[folder] for folder in chain[: chain.index(result) + 1]]
    prunings = [node.phase for node in nodes if isinstance(node.phase, Prune)]
    retrainings = [node.phase.epochs for node in nodes if isinstance(node.phase, Retrain)]
    steps = lengths.total_steps(retrainings)
    return {
        "sparsity": prunings[-1].sparsity if prunings else nodes[0].train.sparsity or 0.0,
        "cycles": len(prunings),
        "retrain_epochs": lengths.total(retrainings),
        **({"retrain_steps": steps} if steps else {}),
    }
