"""The filter rates of Li et al. 2017, as Renda et al. 2020 take them to higher rates by their footnote 6.

Convolutions larger than 1x1 are numbered in the network's order, the stem is 1. In ResNets the even ones, the first
convolution of each block, lose filters, but for those that Li et al. found sensitive. At level i = 1, 2 ... a layer of
rate p loses 1 - (1 - p)^i of its filters.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from pruning.plan import PlanError, suggest


def _evens(first: int, last: int, rate: float, skipped: tuple[int, ...] = ()) -> dict[int, float]:
    return {i: rate for i in range(first, last + 1, 2) if i not in skipped}


# name -> (number of the network's convolutions, {number of the convolution: share of its filters that goes})
LI: dict[str, tuple[int, dict[int, float]]] = {
    "resnet56-a": (55, _evens(2, 54, 0.1, (16, 20, 38, 54))),
    "resnet56-b": (
        55,
        _evens(2, 18, 0.6, (16, 18)) | _evens(20, 36, 0.3, (20, 34)) | _evens(38, 54, 0.1, (38, 54)),
    ),
    "resnet110-a": (109, _evens(2, 34, 0.5)),
    "resnet110-b": (109, _evens(2, 36, 0.5, (36,)) | _evens(38, 72, 0.4, (38,)) | _evens(74, 108, 0.3, (74,))),
    "resnet34-a": (33, {i: 0.3 for i in (4, 6, 10, 12, 18, 20, 22, 24)}),
    "resnet34-b": (33, {4: 0.5, 6: 0.5, 10: 0.6, 12: 0.6, 18: 0.4, 20: 0.4, 22: 0.4, 24: 0.4}),
    "vgg16-a": (13, {i: 0.5 for i in (1, *range(8, 14))}),
}


def li_counts(name: str, filters: Mapping[str, int], level: int = 1) -> dict[str, int]:
    """Returns {layer: filters that go} for the rates `name`, of `filters` {layer: filters} of all numbered convolutions.

    A share of n filters that is no whole number is rounded up with the probability of its fraction, by Python's
    generator seeded with 0 for the whole network, as Renda et al.'s code does: the same pattern every time. Unlike there
    a layer keeps one filter: theirs empties layers of rate .5 at level 5 and of rate .6 at levels 4 and 5.
    """
    if name not in LI:
        raise PlanError(f"filter rates '{name}' are unknown{suggest(name, LI)}; allowed: {', '.join(LI)}")
    number, rates = LI[name]
    if len(filters) != number:
        raise PlanError(
            f"filter rates '{name}' are of a network with {number} convolutions; this one has {len(filters)}"
        )
    if level < 1:
        raise PlanError(f"level must be at least 1, not {level}")
    draw = random.Random(0)
    out = {}
    for i, (layer, count) in enumerate(filters.items(), start=1):
        if i in rates:
            share = count * (1 - (1 - rates[i]) ** level)
            out[layer] = min(int(share) + (draw.random() < share - int(share)), count - 1)
    return out
