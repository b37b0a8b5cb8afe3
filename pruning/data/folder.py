"""A tree of image files, DIR/train/CLASS/*.jpg, DIR/val and DIR/test likewise, read in worker processes.

With val and test both there, they validate and test, and nothing is split. With one of them, that one tests and the
split rule makes the validation part: ImageNet as it is distributed has train and val. Workers send bytes, which the
device normalizes; PRUNE_WORKERS sets their number (otherwise one per CPU core, at most 8).
"""

from __future__ import annotations

import copy
import importlib
import os
from pathlib import Path
from typing import Any

import torch

from pruning.data.datasets import ItemData
from pruning.data.source import split
from pruning.plan import PlanError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images


def folder_data(
    root: Path,
    rule: str,
    split_seed: int,
    settings: dict[str, Any],
    *,
    size: int = 224,
    resize: int = 0,
    area: float = 0.08,
    aspect: float = 4 / 3,
) -> ItemData:
    """Returns the images below `root`, all made to 3 x size x size.

    Images that are only looked at are resized to `resize` pixels on their shorter side (0: 8/7 of size, ImageNet's 256
    for 224) and cut out in the middle. augment "default" trains on random parts of at least `area` of the image, their
    aspect ratio changed by up to `aspect`, half of them mirrored (Szegedy et al. 2015, section 6); "crop-flip" and
    "crop" shift the cut-out by `padding` instead.
    """
    if size < 1 or resize < 0 or not 0 < area <= 1 or not 1 <= aspect < 100:
        raise PlanError("data 'folder': size must be at least 1, resize at least 0, area in (0, 1], aspect at least 1")
    v2 = vision("folder")
    whole = v2.Resize(max(size, resize or round(size * 8 / 7)))
    trees = _trees(root, v2.Compose([whole, v2.CenterCrop(size), v2.PILToTensor()]))
    return of_trees("folder", trees, rule, split_seed, settings, size=size, area=area, aspect=aspect)


def vision(name: str) -> Any:
    """Returns torchvision's transforms; PlanError says that data `name` need them."""
    try:
        return importlib.import_module("torchvision.transforms.v2")
    except ImportError as error:
        raise PlanError(f"data '{name}' needs torchvision: pip install 'pruning[vision]' ({error})") from None


def of_trees(
    name: str,
    trees: dict[str, Any],
    rule: str,
    split_seed: int,
    settings: dict[str, Any],
    *,
    size: int,
    area: float,
    aspect: float,
) -> ItemData:
    """Returns the data set of trees train, test and maybe validation; see :func:`folder_data` for the rest.

    A tree has `classes`, `targets` (the labels) and `transform`, which makes an image to a uint8 tensor.
    """
    v2 = vision(name)
    if "validation" in trees:
        index = {part: (part, torch.arange(len(tree))) for part, tree in trees.items()}
    else:
        index = split(len(trees["train"]), len(trees["test"]), rule, split_seed)
    augmented = None
    if settings["augment"] == "default":
        augmented = copy.copy(trees["train"])
        part = v2.RandomResizedCrop(size, scale=(area, 1.0), ratio=(1 / aspect, aspect))
        augmented.transform = v2.Compose([part, v2.RandomHorizontalFlip(), v2.PILToTensor()])
    return ItemData(
        name,
        {part: (trees[origin], i) for part, (origin, i) in index.items()},
        len(trees["train"].classes),
        labels=torch.tensor(trees["train"].targets)[index["train"][1]],
        augmented=augmented,
        constants=(torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)),
        workers=min(8, os.cpu_count() or 1),
        **settings,
    )


def _trees(root: Path, transform: Any) -> dict[str, Any]:
    datasets = importlib.import_module("torchvision.datasets")
    folders = {part: root / name for part, name in (("train", "train"), ("validation", "val"), ("test", "test"))}
    folders = {part: folder for part, folder in folders.items() if folder.is_dir()}
    if "train" not in folders or len(folders) < 2:
        raise PlanError(
            f"data 'folder' is not in {root}: expected folders train and val or test (or both) there, each with one "
            "folder of images per class; --data-dir or PRUNE_DATA names the folder"
        )
    if "test" not in folders:
        folders["test"] = folders.pop("validation")
    trees = {}
    for part, folder in folders.items():
        try:
            trees[part] = datasets.ImageFolder(str(folder), transform, loader=image)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise PlanError(f"data 'folder': {folder} is no tree of class folders with images: {reason}") from None
        differing = sorted(set(trees[part].classes) ^ set(trees["train"].classes))
        if differing:
            where = "lacks" if differing[0] in trees["train"].classes else "has"
            raise PlanError(
                f"data 'folder': classes disagree: {folder} {where} '{differing[0]}', unlike {root / 'train'}"
            )
    return trees


def image(path: str) -> Any:
    """Returns the RGB image in a file; PlanError names one that cannot be read."""
    loader = importlib.import_module("torchvision.datasets.folder").pil_loader  # RGB; faster here than decode_image
    try:
        return loader(path)
    except Exception as error:
        raise PlanError(f"{path} cannot be read as an image: {error}") from None
