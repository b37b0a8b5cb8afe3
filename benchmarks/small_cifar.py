"""A small CIFAR-10 for experiments on one processor: images of 3x16x16, the means of 2x2 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


def load(data_dir: Path, images: int = 3000, test: int = 5000, validation: int = 0) -> tuple[Pair, Pair | None, Pair]:
    """Returns (train, validation, test): the first images of the first training, the second training and the test batch.

    `data_dir` holds cifar-10-batches-bin/; a part is ([n, 3, 16, 16] uint8, [n] int64). There are 10,000 of each at most;
    without `validation` images that part is None.
    """
    folder = data_dir / "cifar-10-batches-bin"
    held_out = _read(folder / "data_batch_2.bin", validation) if validation else None
    return _read(folder / "data_batch_1.bin", images), held_out, _read(folder / "test_batch.bin", test)


def _read(path: Path, images: int) -> Pair:
    rows = np.fromfile(path, np.uint8).reshape(-1, 3073)[:images]  # a label, then 32x32 pixels in R, G, B planes
    pixels = rows[:, 1:].reshape(-1, 3, 16, 2, 16, 2).mean((3, 5)).round().astype(np.uint8)
    return pixels, rows[:, 0].astype(np.int64)
