"""A study on a real Ray cluster of two nodes, one of which is killed in the middle."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pruning.plan import PlanError
from pruning.record import runs
from pruning.study import sweep

ray = pytest.importorskip("ray", reason="needs Ray (extra ray)")
pytest.importorskip("sklearn", reason="the digits need scikit-learn (extra demo)")

from ray.cluster_utils import Cluster  # noqa: E402

from pruning.study.sweep.cluster import RayExecutor  # noqa: E402

STUDY = """
[[phases]]
phase = "train"
model = "lenet-300-100"
data = "digits"
epochs = 5
batch_size = 64
milestones = [3]
[[phases]]
phase = "prune"
sparsity = 0.5
[[phases]]
phase = "retrain"
epochs = 16
[axes]
"retrain.technique" = ["fine-tune", "lr-rewind"]
"prune.sparsity" = [0.5, 0.8, 0.9]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def carry_out(out: Path, executor: sweep.Executor, told: list[Any]) -> sweep.Outcome:
    study = sweep.parse_study(STUDY, "ray")
    graph = sweep.build(sweep.expand(study), out)
    return sweep.Sweep(study, graph, out).carry_out(executor, {"device": "cpu"}, told.append)


def bits(out: Path) -> dict[str, Any]:
    timing = ("seconds", "images_per_second", "train_seconds", "run")
    drop = lambda record: {k: v for k, v in record.items() if k not in timing}  # noqa: E731
    found: dict[str, Any] = {}
    for run in sorted(out.glob("lenet*")):
        found[run.name] = [drop(runs.read_summary(run)), [drop(r) for r in runs.log(run)]]
        found |= {f"{run.name}/{file.name}": file.read_bytes() for file in run.glob("*.safetensors")}
    return found


def test_a_killed_node_loses_nothing_and_runs_nothing_twice(cluster: Cluster, tmp_path: Path) -> None:
    out, told = tmp_path / "ray", []
    lost = next(iter(cluster.worker_nodes))

    def kill() -> None:
        while len(list(out.glob("*-retrain-*/log.jsonl"))) < 2 and not done.is_set():
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)
        killed.append(len(list(out.glob("*/summary.json"))))

    done, killed = threading.Event(), []
    killer = threading.Thread(target=kill)
    killer.start()
    outcome = carry_out(out, RayExecutor(), told)
    done.set()
    killer.join()
    assert killed
    assert killed[0] < 10  # it was in the middle
    assert not outcome.failed
    assert len(outcome.ran) == len(set(outcome.ran)) == 10
    for run in out.glob("*-retrain-*"):
        assert [record["epoch"] for record in runs.log(run)] == list(range(1, 17))  # no epoch is there twice
    whole = tmp_path / "whole"
    carry_out(whole, sweep.LocalExecutor(1), [])
    assert bits(out) == bits(whole)


def test_a_phase_that_does_not_fit_the_cluster_is_refused(cluster: Cluster) -> None:
    with pytest.raises(PlanError, match="no place for a phase of 64 CPUs"):
        RayExecutor(threads=64)
    with pytest.raises(PlanError, match="no place for a phase of 1 CPUs and 0.25 GPUs"):
        RayExecutor(gpus=0.25)


def test_a_cluster_that_is_not_there_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(PlanError, match="no Ray cluster at '127.0.0.1:1': Connection refused"):
        RayExecutor("127.0.0.1:1")
