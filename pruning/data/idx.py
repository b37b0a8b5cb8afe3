"""MNIST and Fashion-MNIST from their idx files, gzipped or not (the format of http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning.data import places
from pruning.data.source import Pair, Source

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MNIST = places.Layout(("mnist", "MNIST/raw"), FILES)
FASHION_MNIST = places.Layout(("fashion-mnist", "FashionMNIST/raw"), FILES)
LARGEST = 2**30  # bytes; a header that promises more is a wrong one


def mnist(data_dir: Path | str | None) -> Source:
    """Returns MNIST: 60,000 training and 10,000 test images of 1x28x28 in ten classes."""
    how = "download its four files (train-images-idx3-ubyte.gz ...) from https://yann.lecun.com/exdb/mnist or a mirror"
    return _source("mnist", data_dir, MNIST, how, mean=0.1307, std=0.3081)


def fashion_mnist(data_dir: Path | str | None) -> Source:
    """Returns Fashion-MNIST: 60,000 training and 10,000 test images of 1x28x28 in ten classes."""
    how = (
        "download its four files (train-images-idx3-ubyte.gz ...) from https://github.com/zalandoresearch/fashion-mnist"
    )
    return _source("fashion-mnist", data_dir, FASHION_MNIST, how, mean=0.2860, std=0.3530)


def _source(name: str, data_dir: Path | str | None, layout: places.Layout, how: str, mean: float, std: float) -> Source:
    _, paths = places.find(name, data_dir, (layout,), how)
    return Source(_pair(name, *paths[:2]), None, _pair(name, *paths[2:]), 10, mean=(mean,), std=(std,))


def _pair(name: str, images: Path, labels: Path) -> Pair:
    x, y = read_idx(name, images, dims=3), read_idx(name, labels, dims=1).long()
    if len(x) != len(y) or len(y) == 0:
        raise places.damaged(name, labels, f"{len(y)} labels for {len(x)} images in {images.name}")
    if int(y.max()) > 9:
        raise places.damaged(name, labels, "a label is outside 0 to 9")
    return x.unsqueeze(1), y


def read_idx(name: str, path: Path, dims: int) -> Tensor:
    """Returns the uint8 tensor of `dims` dimensions in an idx file; its size must be what its header says."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dims)
            if header[:4] != bytes([0, 0, 8, dims]) or len(header) < 4 + 4 * dims:
                raise places.damaged(name, path, f"it does not start as an idx file of {dims} dimensions")
            shape = struct.unpack(f">{dims}I", header[4:])
            size = math.prod(shape)
            if not size:
                raise places.damaged(name, path, f"its header says {' x '.join(map(str, shape))}: nothing")
            if size > LARGEST:
                raise places.damaged(name, path, f"its header promises {size} bytes")
            raw = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise places.damaged(name, path, str(error) or type(error).__name__) from None
    if len(raw) != size:
        raise places.damaged(
            name, path, f"its header promises {size} bytes, it holds {'more' if len(raw) > size else len(raw)}"
        )
    return torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(shape).copy())
