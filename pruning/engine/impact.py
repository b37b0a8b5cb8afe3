"""How much a pruning changed the network: the impact d1 that the adaptive retraining schedules start from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from pruning.engine import decide
from pruning.engine.fitting import split_state
from pruning.engine.session import Workbench
from pruning.plan import PlanError, Prune
from pruning.record import checkpoint, runs, whole
from pruning.training import loop, schedules


def impact(bench: Workbench, run: Path, network: nn.Module, schedule: str) -> float | None:
    """Returns d1 of the last pruning in the run's history (Zimmer et al. 2023, equations 1 and 3); None where `schedule` needs
    none.

    The norm is over all weights and biases, normalization included, as in Zimmer et al.'s code. `network` is overwritten.
    """
    kind = schedules.RETRAIN_SCHEDULES.find(schedule).impact
    if kind is None:
        return None
    if kind == "norm":
        return norm_lost(run, network)
    before, after = _around_last_prune(run)
    metrics = []
    for file in (before, after):
        checkpoint.restore(network, _weights(file), file)
        batches = bench.data.batches("train", bench.task.evaluation_batch)
        metrics.append(loop.evaluate(network, batches, bench.task, bench.device, bench.train.precision)[0])
    return schedules.accuracy_impact(*metrics)


def norm_lost(run: Path, network: nn.Module) -> float:
    """Returns d1 of equation 1 for the last pruning in the run's history, over all parameters of `network`."""
    before, after = _around_last_prune(run)
    layers = runs.read_summary(run)["layers"]
    kept, left = _kept(before.parent, layers), _kept(after.parent, layers)
    removed = 1.0 - left / kept if kept else 0.0
    names = [name for name, _ in network.named_parameters()]
    return schedules.norm_impact(_norm(before, names), _norm(after, names), removed)


def _around_last_prune(run: Path) -> tuple[Path, Path]:
    """Returns the files of the weights just before and just after the last pruning."""
    chain = runs.history(run)
    for i in range(len(chain) - 1, 0, -1):
        phase = runs.read_phase(chain[i])
        if isinstance(phase, Prune):
            before = decide.source(phase, chain[i - 1]) or whole.needed(chain[i - 1], runs.WEIGHTS)
            return before, whole.needed(chain[i], runs.WEIGHTS)
    raise PlanError(f"the history of run '{run}' has no prune phase, so its impact is not known")


def _kept(run: Path, names: Iterable[str]) -> int:
    """Returns how many weights of the named layers the run keeps."""
    layers = runs.read_summary(run)["layers"]
    return sum(layers[name][0] for name in names)


def _weights(file: Path) -> dict[str, Tensor]:
    return split_state(checkpoint.load(file)[0])[0]


def _norm(file: Path, names: list[str]) -> float:
    tensors = _weights(file)
    return math.sqrt(sum(float(tensors[name].double().square().sum()) for name in names))
