"""What a reader of a data set returns, and the partition into training, validation and test images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pruning import seeds
from pruning.plan import PlanError

PARTS = ("train", "validation", "test")
Pair = tuple[Tensor, Tensor]  # x [n, ...] uint8, float32 or int64; y [n] int64


@dataclass(frozen=True)
class Source:
    """A data set in memory, on the CPU, as it is stored.

    A stored value divided by `scale` is in [0, 1] for images; `mean` and `std` are per channel, on that scale, or None
    where the data set has no constants of its own. `augment` is what "default" means for it.
    """

    train: Pair
    validation: Pair | None
    test: Pair
    classes: int
    scale: float = 255.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: str = "none"


def split(n_train: int, n_test: int, rule: str, seed: int = 0) -> dict[str, tuple[str, Tensor]]:
    """Returns {part: (the set it is taken from, its ascending indices)} of the three parts.

    train-10    a tenth of the training set, drawn at random, validates (Zimmer et al. 2023)
    test-20     a fifth of the test set, drawn at random, validates, the rest tests (Renda et al. 2020, section 2.5)
    none        everything trains, everything tests, nothing validates (Frankle et al. 2021)

    The draw depends on `seed` and the size alone, so runs with different seeds of their own share their test images.
    """
    parts = {"train": torch.arange(n_train), "validation": torch.arange(0), "test": torch.arange(n_test)}
    origin = {"train": "train", "validation": "train", "test": "test"}
    if rule == "train-10":
        parts["validation"], parts["train"] = _draw(n_train, round(n_train / 10), seed)
    elif rule == "test-20":
        parts["validation"], parts["test"] = _draw(n_test, round(n_test / 5), seed)
        origin["validation"] = "test"
    elif rule != "none":
        raise PlanError(f"split '{rule}' is unknown; allowed: train-10, test-20, none")
    return {part: (origin[part], index) for part, index in parts.items()}


def divide(source: Source, rule: str, seed: int = 0) -> Source:
    """Returns the source with its validation part made by `rule`, unless it has one of its own."""
    if source.validation is not None:
        return source
    sets = {"train": source.train, "test": source.test}
    index = split(len(source.train[1]), len(source.test[1]), rule, seed)
    pairs = {part: _take(sets[origin], i) for part, (origin, i) in index.items()}
    return replace(source, train=pairs["train"], validation=pairs["validation"], test=pairs["test"])


def _take(pair: Pair, index: Tensor) -> Pair:
    return pair if len(index) == len(pair[1]) else (pair[0][index], pair[1][index])  # indices ascend: all are all


def check_part(part: str) -> None:
    """Returns nothing; raises PlanError for a name that is none of the three parts'."""
    if part not in PARTS:
        raise PlanError(f"part '{part}' is unknown; allowed: {', '.join(PARTS)}")


def class_balanced(labels: Tensor, classes: int, per_class: int, seed: int) -> Tensor:  # labels [n] -> [classes * k]
    """Returns the indices of `per_class` entries of each class, drawn at random, class by class."""
    order = torch.randperm(len(labels), generator=seeds.generator(seed, "balanced"))
    chosen = []
    for c in range(classes):
        of_class = order[labels[order] == c]
        if len(of_class) < per_class:
            raise PlanError(f"a sample of {per_class} images per class is asked for; class {c} has {len(of_class)}")
        chosen.append(of_class[:per_class])
    return torch.cat(chosen)


def drawn(n: int, number: int, seed: int) -> Tensor:  # -> [min(n, number)]
    """Returns the indices of `number` of n entries drawn at random, of all of them where there are no more."""
    return torch.randperm(n, generator=seeds.generator(seed, "balanced"))[:number]


def _draw(n: int, k: int, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(n, generator=seeds.generator(seed, "split", n))
    return order[:k].sort().values, order[k:].sort().values
