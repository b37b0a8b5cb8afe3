"""A study on a real Ray cluster of two nodes, one of which is killed in the middle."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import Inline, bits

from pruning.plan import PlanError
from pruning.record import runs
from pruning.study import sweep

ray = pytest.importorskip("ray", reason="needs Ray (extra ray)")
pytest.importorskip("sklearn", reason="the digits need scikit-learn (extra demo)")

from ray.cluster_utils import Cluster  # noqa: E402

from pruning.study.sweep.cluster import RayExecutor  # noqa: E402

NET = """
import time
from pathlib import Path
import ray
from torch import nn

class Held(nn.Sequential):
    steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 150 and ray.get_runtime_context().get_node_id() == {node!r}:
            flag = Path(__file__).with_name("held")
            if not flag.exists():
                flag.touch()
                time.sleep(600)
        return super().forward(x)

def net(shape, classes):
    return Held(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, classes))
"""
STUDY = """
[[phases]]
phase = "train"
model = "{net}:net"
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


def test_a_killed_node_loses_nothing_and_runs_nothing_twice(cluster: Cluster, tmp_path: Path) -> None:
    """The node goes while a process on it is held in the middle of a retraining."""
    lost = next(iter(cluster.worker_nodes))
    net = tmp_path / "net.py"
    net.write_text(NET.format(node=lost.node_id))
    out, whole = tmp_path / "ray", tmp_path / "whole"
    done: list[int] = []

    def tell(event: sweep.Message | sweep.Status) -> None:
        if not done and isinstance(event, sweep.Status) and (tmp_path / "held").exists():
            assert [run for run in out.glob("*-retrain-*") if 0 < len(runs.log(run)) < 16 and not runs.is_done(run)]
            cluster.remove_node(lost, allow_graceful=False)
            done.append(event.done)

    def carry_out(out: Path, executor: sweep.Executor) -> sweep.Outcome:
        study = sweep.parse_study(STUDY.format(net=net), "ray")
        graph = sweep.build(sweep.expand(study), out)
        return sweep.Sweep(study, graph, out).carry_out(executor, {"device": "cpu"}, tell)

    outcome = carry_out(out, RayExecutor())
    assert done
    assert done[0] < 10
    assert not outcome.failed
    assert len(outcome.ran) == len(set(outcome.ran)) == 10
    for run in out.glob("*-retrain-*"):
        assert [record["epoch"] for record in runs.log(run)] == list(range(1, 17))  # no epoch is there twice
    carry_out(whole, Inline())
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


SWEEP = """
from pathlib import Path
from pruning.study import sweep
from pruning.study.sweep.cluster import RayExecutor

study = sweep.parse_study('''
seeds = [0]
[[phases]]
phase = "train"
model = "lenet-300-100"
data = "digits"
epochs = 1
[[phases]]
phase = "prune"
sparsity = 0.5
''', "small")
points = sweep.expand(study)
graph = sweep.build(points, Path("runs"))
where = {"device": "cpu", "data_dir": None, "trust_code": False}
outcome = sweep.Sweep(study, graph, Path("runs")).carry_out(RayExecutor(), where, lambda message: None)
assert len(outcome.ran) == 2, outcome
"""


def test_nodes_import_nothing_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("queue", "numpy", "safetensors", "pruning", "pydantic"):
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'owned')!r}, 'w').write({name!r})\nraise SystemExit(3)\n"
        )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SWEEP], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "owned").exists()
