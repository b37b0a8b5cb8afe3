"""Tiny ImageNet as it is distributed: 100,000 training and 10,000 validation images of 3x64x64 in 200 classes.

wnids.txt lists the classes, train/WNID/images/ holds the training images, val/images/ those that test here, with their
classes in val/val_annotations.txt; the images of test/ have no labels and are not read. Frankle et al. 2021 (Appendix A)
train on patches of .1 to 1 of the image with aspect ratios of .8 to 1.25, mirrored at random. Values are normalized with
ImageNet's constants: the paper says per channel, and not by what.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from pruning.data.datasets import ItemData
from pruning.data.folder import image, of_trees, vision
from pruning.plan import PlanError

SIDE = 64
FOLDER = "tiny-imagenet-200"  # the archive's


class Images(Dataset):
    """Files with a label each, as torchvision's image folders have them."""

    def __init__(self, paths: list[Path], targets: list[int], classes: list[str], transform: Any) -> None:
        self.paths, self.targets, self.classes, self.transform = paths, targets, classes, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = image(str(self.paths[index]))
        if picture.size != (SIDE, SIDE):
            width, height = picture.size
            raise PlanError(f"data 'tinyimagenet': {self.paths[index]} has {width}x{height} pixels, not {SIDE}x{SIDE}")
        return self.transform(picture), self.targets[index]


def tiny_imagenet(
    root: Path, rule: str, split_seed: int, settings: dict[str, Any], *, area: float = 0.1, aspect: float = 1.25
) -> ItemData:
    """Returns Tiny ImageNet from `root` or its subfolder tiny-imagenet-200; see the module for what is read.

    augment "default" trains on random parts of at least `area` of the image, resized to it, their aspect ratio changed by
    up to `aspect`, half of them mirrored.
    """
    if not 0 < area <= 1 or not 1 <= aspect < 100:
        raise PlanError("data 'tinyimagenet': area must be in (0, 1], aspect at least 1")
    plain = vision("tinyimagenet").PILToTensor()
    root = root / FOLDER if (root / FOLDER).is_dir() else root
    parts = ("wnids.txt", "train", "val/images", "val/val_annotations.txt")
    lacking = [part for part in parts if not (root / part).exists()]
    if lacking:
        raise PlanError(
            f"data 'tinyimagenet' is not in {root}, which lacks {', '.join(lacking)}: unpack {FOLDER}.zip of "
            "http://cs231n.stanford.edu there; --data-dir or PRUNE_DATA names the folder"
        )
    classes = [line.strip() for line in _lines(root / "wnids.txt") if line.strip()]
    if not classes or len(set(classes)) < len(classes):
        raise PlanError(f"data 'tinyimagenet': {root / 'wnids.txt'} must list each class once")
    trees = {
        "train": Images(*_training(root, classes), classes, plain),
        "test": Images(*_validation(root, classes), classes, plain),
    }
    return of_trees("tinyimagenet", trees, rule, split_seed, settings, size=SIDE, area=area, aspect=aspect)


def _training(root: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    paths: list[Path] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        found = sorted((root / "train" / name / "images").glob("*.JPEG"))
        if not found:
            raise PlanError(f"data 'tinyimagenet': {root / 'train' / name / 'images'} has no images (*.JPEG)")
        paths += found
        targets += [label] * len(found)
    return paths, targets


def _validation(root: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    """Returns the images that val_annotations.txt lists: NAME, WNID and a box, separated by tabs."""
    table, folder = root / "val" / "val_annotations.txt", root / "val" / "images"
    labels = {name: label for label, name in enumerate(classes)}
    there = {path.name for path in folder.iterdir()}
    paths: list[Path] = []
    targets: list[int] = []
    for number, line in enumerate(_lines(table), 1):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0].strip()
        if wnid not in labels:
            raise PlanError(f"data 'tinyimagenet': {table}, line {number}: class '{wnid[:40]}' is not in wnids.txt")
        if name not in there:
            raise PlanError(f"data 'tinyimagenet': {table}, line {number}: {folder} lacks {name[:80]}")
        paths.append(folder / name)
        targets.append(labels[wnid])
    if not paths:
        raise PlanError(f"data 'tinyimagenet': {table} lists no image")
    return paths, targets


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"data 'tinyimagenet': {path} cannot be read: {error}") from None
