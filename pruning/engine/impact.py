"""How much a pruning changed the network: the impact d1 that the adaptive retraining schedules start from."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from pruning import checkpoint, loop, runs, schedules
from pruning.engine.results import load_state
from pruning.engine.session import Setting
from pruning.plan import PlanError, Prune


def impact(setting: Setting, run: Path, network: nn.Module, schedule: str) -> float | None:
    """Returns d1 of the last pruning in the run's history (Zimmer et al. 2023, equations 1 and 3); None where `schedule` needs
    none.

    The norm is over all weights and biases, normalization included, as in Zimmer et al.'s code. `network` is overwritten.
    """
    kind = schedules.IMPACT.get(schedule)
    if kind is None:
        return None
    before, after = _around_last_prune(run)
    if kind == "norm":
        kept, left = _kept(before), _kept(after)
        removed = 1.0 - left / kept if kept else 0.0
        parameters = [name for name, _ in network.named_parameters()]
        return schedules.norm_impact(_norm(before, parameters), _norm(after, parameters), removed)
    accuracies = []
    for folder in (before, after):
        load_state(folder, network)
        batches = setting.data.batches("train", loop.EVALUATION_BATCH)
        accuracies.append(loop.evaluate(network, batches, setting.device, setting.train.precision)[0])
    return schedules.accuracy_impact(*accuracies)


def _around_last_prune(run: Path) -> tuple[Path, Path]:
    chain = runs.history(run)
    for i in range(len(chain) - 1, 0, -1):
        if isinstance(runs.read_phase(chain[i]), Prune):
            return chain[i - 1], chain[i]
    raise PlanError(f"the history of run '{run}' has no prune phase, so its impact is not known")


def _kept(run: Path) -> int:
    return sum(kept for kept, _ in runs.read_summary(run)["layers"].values())


def _norm(run: Path, names: list[str]) -> float:
    tensors: dict[str, Tensor] = checkpoint.load(run / runs.WEIGHTS)[0]
    return math.sqrt(sum(float(tensors[name].double().square().sum()) for name in names))
