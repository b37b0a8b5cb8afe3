"""Dead channels at Frankle et al.'s highest matching sparsities (2021, figure 6), without training, beside the paper's numbers.

    python benchmarks/dead_channels.py [--data-dir DIR] [--seeds 5] [--network resnet20 ...] [--record FILE]

A channel is dead where all its weights are pruned; counted are the output channels of every convolution, shortcuts included.
SNIP and GraSP are scored in eval and in train mode, on 10 training images of each class. Where CIFAR-10 does not lie in
--data-dir, and for ResNet-18 always, the images are normal noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pruning import data, models, prune
from pruning.deciding.ablations import ABLATIONS
from pruning.deciding.filters import filters_kept
from pruning.errors import PlanError
from pruning.masks import Masks
from pruning.record.environment import environment
from pruning.seeds import generator

TRAIN = {"weight_init": "he-normal-fan-in", "norm_init": "uniform"}


class Network(NamedTuple):
    """A network of the paper's, its highest matching sparsity, and the paper's percentages of dead channels by criterion."""

    model: str
    options: dict[str, Any]
    shape: tuple[int, int, int]
    classes: int
    sparsity: float
    paper: dict[str, str]


NETWORKS = {
    "resnet20": Network(
        "resnet20", {"shortcut": "B"}, (3, 32, 32), 10, 1 - 0.8**6,
        {"magnitude": "0", "snip": "5", "grasp": "1", "synflow": "31", "synflow, shuffled": "1"},
    ),
    "vgg16": Network(
        "vgg16", {"bias": True, "last_pool": "avg"}, (3, 32, 32), 10, 1 - 0.8**12,
        {"magnitude": "0", "snip": "11", "grasp": "6", "synflow": "52", "synflow, shuffled": "0"},
    ),
    "resnet18": Network(
        "resnet18", {"stem": "7x7"}, (3, 64, 64), 200, 1 - 0.8**15,
        {"magnitude": "< 1", "snip": "32", "grasp": "14", "synflow": "69", "synflow, shuffled": "3.5"},
    ),
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "magnitude": {"criterion": "magnitude"},
    "snip, eval": {"criterion": "snip", "mode": "eval"},
    "snip, train": {"criterion": "snip", "mode": "train"},
    "grasp, eval": {"criterion": "grasp", "mode": "eval"},
    "grasp, train": {"criterion": "grasp", "mode": "train"},
    "synflow": {"criterion": "synflow"},
}
SHUFFLED = "synflow, shuffled"  # of the same masks


def decided(network: Network, sample: tuple[Tensor, Tensor], seed: int, **asked: Any) -> Masks:
    """Returns the masks of the network's initialization."""
    model = models.build(network.model, network.shape, network.classes, options=network.options, seed=seed, **TRAIN)  # type: ignore[arg-type]
    needs = asked["criterion"] != "magnitude"
    return prune(model, network.sparsity, batch=sample if needs else None, seed=seed, tell=lambda event: None, **asked)


def dead_share(masks: Masks) -> float:
    """Returns the percentage of convolution channels without a weight."""
    counts = [filters_kept({name: mask})[name] for name, mask in masks.items() if mask.dim() == 4]
    return 100 * (1 - sum(kept for kept, _ in counts) / sum(total for _, total in counts))


def noise(network: Network, seed: int, per_class: int = 10) -> tuple[Tensor, Tensor]:
    """Returns normal images, `per_class` of each class, class by class."""
    labels = torch.arange(network.classes).repeat_interleave(per_class)
    return torch.randn(len(labels), *network.shape, generator=torch.Generator().manual_seed(seed)), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=["resnet20", "vgg16"])
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--noise", action="store_true", help="normal images in place of CIFAR-10's")
    parser.add_argument("--record", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines, start = [], time.perf_counter()
    for name in arguments.network:
        network = NETWORKS[name]
        images = None
        if network.shape[1] == 32 and not arguments.noise:
            try:
                images = data.load("cifar10", arguments.data_dir, split="none", normalize="channel")
            except PlanError as error:
                print(f"{error}\nnormal images in its place")
        what = "CIFAR-10's images" if images is not None else "normal images"
        lines += ["", f"{name}, sparsity {100 * network.sparsity:.1f} %, {what}", ""]
        lines += ["| criterion | paper, % | mean, % | least | greatest | n |", "|---|---|---|---|---|---|"]
        for case in arguments.case:
            found: list[float] = []
            shuffled: list[float] = []
            for seed in range(arguments.seeds):
                sample = noise(network, seed) if images is None else images.balanced(10, seed)
                masks = decided(network, sample, seed, **CASES[case])
                found.append(dead_share(masks))
                if case == "synflow":
                    mixed = ABLATIONS.find("shuffle").load()(masks, None, generator(seed, "scores"))
                    shuffled.append(dead_share(mixed))
            for label, values in ((case, found), (SHUFFLED, shuffled)):
                if values:
                    paper = network.paper[label if label == SHUFFLED else case.partition(",")[0]]
                    ends = f"{min(values):.1f} | {max(values):.1f} | {len(values)}"
                    lines.append(f"| {label} | {paper} | {statistics.fmean(values):.1f} | {ends} |")
                    print(f"{name} {lines[-1]} {time.perf_counter() - start:.0f} s", flush=True)
    made = environment(torch.device("cpu"))
    lines += [
        "",
        ", ".join(f"{key} {made[key]}" for key in ("torch", "python", "cpu", "threads") if made.get(key)) + ".",
    ]
    print("\n".join(lines))
    if arguments.record:
        arguments.record.write_text("\n".join(lines).lstrip() + "\n")


if __name__ == "__main__":
    main()
