"""Dead channels at initialization beside Frankle et al.'s (2021, figure 6), from which scoring in train mode is inferred."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning import data, models, prune
from pruning.deciding.filters import filters_kept

NETWORKS: dict[str, tuple[dict[str, Any], float]] = {
    "resnet20": ({"shortcut": "B"}, 1 - 0.8**6),  # 73.8 %
    "vgg16": ({"bias": True, "last_pool": "avg"}, 1 - 0.8**12),  # 93.1 %
}


def noise(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(100, 3, 32, 32, generator=generator), torch.arange(10).repeat_interleave(10)


def dead(name: str, sample: tuple[Tensor, Tensor], seed: int, criterion: str, mode: Any = None) -> float:
    """Returns the percentage of convolution channels that lose all weights."""
    options, sparsity = NETWORKS[name]
    model = models.build(
        name, (3, 32, 32), 10, options=options, weight_init="he-normal-fan-in", norm_init="uniform", seed=seed
    )
    masks = prune(model, sparsity, criterion, batch=None if criterion == "magnitude" else sample, mode=mode, seed=seed)
    counts = filters_kept({key: mask for key, mask in masks.items() if mask.dim() == 4}).values()
    return 100 * (1 - sum(kept for kept, _ in counts) / sum(total for _, total in counts))


def test_dead_channels_of_resnet20_on_noise() -> None:
    """The paper's numbers: magnitude 0, SNIP 5, GraSP 1, SynFlow 31. Noise for images changes them by half a point."""
    torch.set_num_threads(1)
    train, evaluated = (
        statistics.fmean(dead("resnet20", noise(seed), seed, "snip", mode) for seed in range(3))
        for mode in ("train", "eval")
    )
    assert train == pytest.approx(5, abs=1.5)
    assert evaluated > train + 1
    assert dead("resnet20", noise(0), 0, "grasp", "train") == pytest.approx(1, abs=1.5)
    assert dead("resnet20", noise(0), 0, "synflow") == pytest.approx(31, abs=1.5)
    assert dead("resnet20", noise(0), 0, "magnitude") < 0.5


@pytest.mark.skipif("PRUNE_TEST_DATA" not in os.environ, reason="PRUNE_TEST_DATA names no folder with CIFAR-10")
@pytest.mark.parametrize(("criterion", "paper"), [("snip", 11), ("grasp", 6)])
def test_dead_channels_of_vgg16_on_cifar10(criterion: str, paper: float) -> None:
    """In eval mode there are about 19 and 18 %."""
    torch.set_num_threads(1)
    images = data.load("cifar10", Path(os.environ["PRUNE_TEST_DATA"]), split="none", normalize="channel")
    sample = images.balanced(10, 0)
    assert dead("vgg16", sample, 0, criterion, "train") == pytest.approx(paper, abs=1.5)
    assert dead("vgg16", sample, 0, criterion, "eval") > paper + 5
