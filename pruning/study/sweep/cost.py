"""What a study costs, before it is started: its distinct phases, their epochs, training images and, with a throughput, hours."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from pruning.plan import Retrain, Train, lengths, techniques
from pruning.study.sweep.phase_graph import Graph, Node

SIZES = {  # training images of the data sets that are always of one size, before any is held out to validate
    "digits": 1_442, "cifar10": 50_000, "cifar100": 50_000, "mnist": 60_000, "fashion-mnist": 60_000, "tinyimagenet": 100_000,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What phases of a kind cost: how many there are and are done, and the epochs and training images of those that are not.

    `epochs` and `images` are None where the size of a data set is not known and they depend on it. Prunings count no images:
    scoring a sample and recalibrating BatchNorm are far less than an epoch.
    """

    phases: int
    done: int
    epochs: float | None
    images: float | None

    def hours(self, throughput: float) -> float | None:
        """Returns how long it takes at so many training images a second, one phase at a time."""
        return None if self.images is None else self.images / throughput / 3600


def cost(graph: Graph, done: Collection[str], images: int | None = None) -> dict[str, Cost]:
    """Returns {"train", "prune", "retrain", "total": Cost} of the distinct phases; `done` are the folders of the finished ones.

    `images` is the number of training images, of any data set whose size is not known.
    """
    kinds: dict[str, list[Node]] = {"train": [], "prune": [], "retrain": []}
    for node in graph.nodes.values():
        kinds[node.phase.phase].append(node)
    kinds["total"] = list(graph.nodes.values())
    return {kind: _cost(nodes, done, images) for kind, nodes in kinds.items()}


def _cost(nodes: list[Node], done: Collection[str], images: int | None) -> Cost:
    left = [_length(node, images) for node in nodes if node.folder not in done]
    epochs, seen = [epochs for epochs, _ in left], [count for _, count in left]
    return Cost(len(nodes), len(nodes) - len(left), _sum(epochs), _sum(seen))


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(math.fsum(known), 6) if len(known) == len(values) else None


def _length(node: Node, images: int | None) -> tuple[float | None, float | None]:
    """Returns the epochs and the training images of a phase, None where they are not known."""
    train, phase = node.train, node.phase
    if not isinstance(phase, (Train, Retrain)) or (isinstance(phase, Train) and phase.adopted is not None):
        return 0, 0
    size = SIZES.get(train.data, images)
    if size is None:
        rest = (
            isinstance(phase, Retrain) and techniques.first_step(phase) > 0
        )  # how much of an epoch that is depends on it
        return (None if rest else node.epochs), None
    size -= round(size / 10) if train.split == "train-10" else 0
    per_epoch = math.ceil(size / train.batch_size)
    if isinstance(phase, Retrain):
        steps = techniques.steps(phase, train.epochs, per_epoch) - techniques.first_step(phase)
    else:
        steps = lengths.in_steps(phase.epochs, per_epoch)
    return steps / per_epoch, steps / per_epoch * size
