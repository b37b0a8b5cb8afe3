"""Data sets by name, or by a function of the user's own, ready in batches on the training device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from pruning import usercode
from pruning.data.cifar import cifar10, cifar100
from pruning.data.digits import digits
from pruning.data.folder import folder_data
from pruning.data.idx import fashion_mnist, mnist
from pruning.data.own import own_data
from pruning.data.places import data_folder
from pruning.data.source import Source, divide
from pruning.data.tensors import TensorData
from pruning.data.tiny_imagenet import tiny_imagenet
from pruning.plan import PlanError, suggest

DATASETS: dict[str, str] = {
    "digits": "scikit-learn's digits, 1,797 images of 1x8x8 in 10 classes; no download (extra 'demo')",
    "cifar10": "CIFAR-10, 60,000 images of 3x32x32 in 10 classes; --download fetches it",
    "cifar100": "CIFAR-100, 60,000 images of 3x32x32 in 100 classes; --download fetches it",
    "mnist": "MNIST, 70,000 images of 1x28x28 in 10 classes; --download fetches it",
    "fashion-mnist": "Fashion-MNIST, 70,000 images of 1x28x28 in 10 classes; --download fetches it",
    "folder": "a tree of images, DIR/train/CLASS/*.jpg, val and test likewise (extra 'vision')",
    "tinyimagenet": "Tiny ImageNet as distributed, 110,000 images of 3x64x64 in 200 classes (extra 'vision')",
}

READERS: dict[str, Callable[[Path | str | None], Source]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
}

FILES: dict[str, Callable[..., Data]] = {"folder": folder_data, "tinyimagenet": tiny_imagenet}

OPTIONS = ("split_seed", "padding")  # of every data set; a function's own options are its keyword arguments


class Data(Protocol):
    """What the engine asks of a data set; see :class:`pruning.data.tensors.TensorData`."""

    name: str
    shape: Any
    classes: int
    sizes: dict[str, int]
    task: Any  # the name of what is learnt from it, or the task itself

    def steps_per_epoch(self, batch_size: int) -> int: ...
    def train_batches(self, batch_size: int, epoch: int, seed: int) -> Iterator[tuple[Any, Any]]: ...
    def batches(self, part: str, batch_size: int) -> Iterator[tuple[Any, Any]]: ...
    def balanced(self, per_class: int, seed: int) -> tuple[Any, Any]: ...
    def sample(self, number: int, seed: int) -> tuple[Any, Any]: ...
    def example(self) -> Any: ...
    def first(self) -> tuple[Any, Any]: ...


def load(
    name: str,
    data_dir: Path | str | None = None,
    *,
    split: str = "train-10",
    augment: str = "default",
    normalize: str = "default",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Data:
    """Returns the data set `name`, split, on `device`.

    `data_dir` None is the environment's PRUNE_DATA or ./data. augment "default": crop-flip for CIFAR, else none;
    "rotate-crop-flip": crop-flip, then turned by up to 15 degrees to either side (Zimmer et al. 2023 on CIFAR-100).
    normalize "channel": the data set's constants, for a function's data those of its training part; "image": per image;
    "default": the constants where there are any; "none": values divided to [0, 1] and no more. Options: `split_seed`
    (0) draws another split, `padding` (4) is the crop's; for others see :func:`pruning.data.folder.folder_data`. A
    user's function is called with those of `data_dir`, `seed` and the other options that its signature accepts.
    """
    options = dict(options or {})
    common = {"split_seed": 0, "padding": 4} | {key: options.pop(key) for key in OPTIONS if key in options}
    for key, value in common.items():
        if type(value) is not int or value < 0:
            raise PlanError(f"data '{name}': option '{key}' takes an integer from 0, not {value!r}")
    split_seed = common.pop("split_seed")
    settings: dict[str, Any] = {"augment": augment, "normalize": normalize, "device": device, **common}
    if usercode.is_code(name):
        offered = {"data_dir": data_folder(data_dir), "seed": seed}
        return own_data(name, offered, options, rule=split, split_seed=split_seed, **settings)
    if name in FILES:
        where = (data_folder(data_dir), split, split_seed, settings)
        return usercode.call(f"data '{name}'", partial(FILES[name], *where), {}, options, typed=True)
    if name not in READERS:
        allowed = ", ".join([*DATASETS, "file.py:function or package.module:function"])
        raise PlanError(f"data '{name}' is unknown{suggest(name, DATASETS)}; allowed: {allowed}")
    if options:
        key = next(iter(options))
        raise PlanError(f"data '{name}' has no option '{key}'{suggest(key, OPTIONS)}; allowed: {', '.join(OPTIONS)}")
    return TensorData(name, divide(READERS[name](data_dir), split, split_seed), **settings)
