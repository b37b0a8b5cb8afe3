"""CIFAR-10 and CIFAR-100 in the two layouts that they are distributed in: rows of bytes, and Python pickles.

A binary row is one label byte (CIFAR-100: coarse, then fine) and 3,072 bytes of 32x32 pixels in R, G, B planes. The
constants for normalization are those of Zimmer et al. 2023.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pruning.data import places
from pruning.data.pickles import read_pickle
from pruning.data.source import Pair, Source

PIXELS = 3 * 32 * 32
BINARY_10 = places.Layout(("cifar-10-batches-bin",), (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"))
PYTHON_10 = places.Layout(("cifar-10-batches-py",), (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"))
BINARY_100 = places.Layout(("cifar-100-binary",), ("train.bin", "test.bin"))
PYTHON_100 = places.Layout(("cifar-100-python",), ("train", "test"))
HOW = "download the '{} binary version' ({}) from https://www.cs.toronto.edu/~kriz/cifar.html and unpack it there"


def cifar10(data_dir: Path | str | None) -> Source:
    """Returns CIFAR-10: 50,000 training and 10,000 test images of 3x32x32 in ten classes."""
    how = HOW.format("CIFAR-10", "cifar-10-binary.tar.gz")
    layout, paths = places.find("cifar10", data_dir, (BINARY_10, PYTHON_10), how)
    if layout is BINARY_10:
        pairs = [_binary("cifar10", path, labels=1, classes=10) for path in paths]
    else:
        pairs = [_python("cifar10", path, key="labels", classes=10) for path in paths]
    sizes = {path.name: len(y) for path, (_, y) in zip(paths, pairs, strict=True)}
    for path in paths[:5]:
        if sizes[path.name] != max(sizes.values()):
            raise places.damaged("cifar10", path, f"{sizes[path.name]} images, where another has {max(sizes.values())}")
    train = (torch.cat([x for x, _ in pairs[:5]]), torch.cat([y for _, y in pairs[:5]]))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return Source(train, None, pairs[5], 10, mean=mean, std=std, augment="crop-flip")


def cifar100(data_dir: Path | str | None) -> Source:
    """Returns CIFAR-100 with its fine labels: 50,000 training and 10,000 test images of 3x32x32 in 100 classes."""
    how = HOW.format("CIFAR-100", "cifar-100-binary.tar.gz")
    layout, paths = places.find("cifar100", data_dir, (BINARY_100, PYTHON_100), how)
    if layout is BINARY_100:
        train, test = (_binary("cifar100", path, labels=2, classes=100) for path in paths)
    else:
        train, test = (_python("cifar100", path, key="fine_labels", classes=100) for path in paths)
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    return Source(train, None, test, 100, mean=mean, std=std, augment="crop-flip")


def _binary(name: str, path: Path, labels: int, classes: int) -> Pair:
    raw = np.frombuffer(places.read(name, path), np.uint8)
    if raw.size == 0 or raw.size % (labels + PIXELS):
        raise places.damaged(name, path, f"{raw.size} bytes are no whole number of rows of {labels + PIXELS}")
    rows = raw.reshape(-1, labels + PIXELS)
    return _pair(name, path, rows[:, labels:], rows[:, labels - 1].astype(np.int64), classes)


def _python(name: str, path: Path, key: str, classes: int) -> Pair:
    table = read_pickle(name, path)
    table = (
        {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in table.items()}
        if isinstance(table, dict)
        else {}
    )
    data, labels = table.get("data"), table.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        raise places.damaged(name, path, f"'data' is no uint8 array of rows of {PIXELS}")
    if not isinstance(labels, list) or not all(isinstance(label, int) and abs(label) < 2**31 for label in labels):
        raise places.damaged(name, path, f"'{key}' is no list of integers")
    if len(data) == 0 or len(labels) != len(data):
        raise places.damaged(name, path, f"{len(data)} images and {len(labels)} labels")
    return _pair(name, path, data, np.array(labels, np.int64), classes)


def _pair(name: str, path: Path, pixels: np.ndarray, labels: np.ndarray, classes: int) -> Pair:
    if labels.min() < 0 or labels.max() >= classes:
        raise places.damaged(name, path, f"a label is outside 0 to {classes - 1}")
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy()), torch.from_numpy(labels)
