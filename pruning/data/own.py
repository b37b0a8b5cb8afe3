"""A data set that a function of the user's own returns: (train, validation, test), or a dict with those keys.

Each part is a pair (x, y) of tensors or arrays, or a torch data set of such pairs; validation may be None, and is then
split off. A uint8 x is taken for images of 0 to 255. Labels are integers from 0; there are as many classes as the
dict's "classes" says, or as the largest training label shows. With a "task" (a name, a class or "file.py:name") in the
dict, or with x a tuple or dict of inputs, examples may have any form (:mod:`pruning.data.free`); "classes" must be given then.

What a data set does to its items at random, it does to those of a validation part that is split off, too, and to
training items that are only looked at, then the same every time: give a validation set of its own to avoid the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from pruning import seeds, usercode
from pruning.data.datasets import ItemData
from pruning.data.free import FreeData
from pruning.data.source import PARTS, Pair, Source, divide, split
from pruning.data.tensors import TensorData
from pruning.plan import PlanError
from pruning.value_range import finite


def own_data(
    name: str,
    offered: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    rule: str,
    split_seed: int,
    **settings: Any,
) -> TensorData | ItemData | FreeData:
    """Returns the data set that the function `name` gives, split by `rule` where it has no validation part."""
    parts = _call(name, offered, options)
    if (parts["task"] is not None and parts["task"] != "classification") or _several(parts["train"]):
        return _free(name, parts, rule, split_seed, settings)
    given = [value for key, value in parts.items() if key in PARTS and value is not None]
    if any(isinstance(value, Dataset) and not isinstance(value, TensorDataset) for value in given):
        return _items(name, parts, rule, split_seed, settings)
    return TensorData(name, divide(_tensors(name, parts), rule, split_seed), **settings)


def _call(name: str, offered: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    what = f"data '{name}'"
    with usercode.seeded(seeds.derive(0, "data")):  # the same for all runs: a function may take `seed` to differ
        given = usercode.call(what, usercode.load(name), offered, options)
    if isinstance(given, (tuple, list)) and len(given) == 3:
        given = dict(zip(PARTS, given, strict=True))
    if not isinstance(given, Mapping):
        raise PlanError(f"{what} must return (train, validation, test) or a dict of them, not {type(given).__name__}")
    unknown = set(given) - {*PARTS, "classes", "task"}
    if unknown or given.get("train") is None or given.get("test") is None:
        raise PlanError(
            f"{what} must return train, validation (or None) and test, and may return classes and task, not {sorted(given)}"
        )
    return {key: given.get(key) for key in (*PARTS, "classes", "task")}


def _several(given: Any) -> bool:
    """Returns whether x of a part, or of its first item, is a tuple or dict of inputs."""
    if isinstance(given, Dataset) and not isinstance(given, (TensorDataset, IterableDataset)):
        return _item_of_several(given)
    pair = isinstance(given, (tuple, list)) and len(given) == 2
    if not pair or isinstance(given[0], Mapping):
        return bool(pair)
    inputs = given[0]
    return isinstance(inputs, (tuple, list)) and bool(inputs) and all(hasattr(part, "__array__") for part in inputs)


def _item_of_several(dataset: Any) -> bool:
    try:
        with usercode.seeded(0):
            x, _ = dataset[0]
    except Exception:  # whatever is wrong with it is said where items are read
        return False
    return isinstance(x, Mapping) or (isinstance(x, tuple) and bool(x) and all(isinstance(t, Tensor) for t in x))


def _free(name: str, parts: Mapping[str, Any], rule: str, split_seed: int, settings: Mapping[str, Any]) -> FreeData:
    for key in ("augment", "normalize"):
        if settings[key] not in ("default", "none"):
            raise PlanError(f"{key} '{settings[key]}' is for images with one label each, which data '{name}' has not")
    classes = parts["classes"]
    if classes is None or type(classes) is not int or classes < 1:
        raise PlanError(
            f"data '{name}': a task other than classification, or several inputs, need \"classes\", the number of "
            f"outputs, a positive integer, not {classes!r}"
        )
    task = parts["task"] or "classification"
    return FreeData(name, parts, classes, task, rule=rule, split_seed=split_seed, device=settings["device"])


def _tensors(name: str, parts: Mapping[str, Any]) -> Source:
    pairs = {part: _pair(f"data '{name}', {part}", parts[part]) for part in PARTS if parts[part] is not None}
    classes = _class_count(name, {part: y for part, (_, y) in pairs.items()}, parts["classes"])
    first = pairs["train"][0]
    for part, (x, _) in pairs.items():
        if x.shape[1:] != first.shape[1:] or x.dtype != first.dtype:
            raise PlanError(
                f"data '{name}': {part} has values of {list(x.shape[1:])} {x.dtype}, "
                f"train has {list(first.shape[1:])} {first.dtype}"
            )
    scale = 255.0 if first.dtype == torch.uint8 else 1.0
    return Source(pairs["train"], pairs.get("validation"), pairs["test"], classes, scale=scale)


def _items(name: str, parts: Mapping[str, Any], rule: str, split_seed: int, settings: Mapping[str, Any]) -> ItemData:
    sets = {part: _dataset(f"data '{name}', {part}", parts[part]) for part in PARTS if parts[part] is not None}
    known = {part: y for part, dataset in sets.items() if (y := labels_of(dataset)) is not None}
    if parts["classes"] is None and "train" not in known:
        raise PlanError(
            f"data '{name}': the training set has no 'targets', so the number of classes is unknown: "
            'return a dict with "classes" as well'
        )
    classes = _class_count(name, known, parts["classes"])
    if "validation" in sets:
        index = {part: (part, torch.arange(_size(dataset))) for part, dataset in sets.items()}
    else:
        index = split(_size(sets["train"]), _size(sets["test"]), rule, split_seed)
    labels = known["train"][index["train"][1]] if "train" in known else None
    return ItemData(name, {part: (sets[o], i) for part, (o, i) in index.items()}, classes, labels=labels, **settings)


def labels_of(dataset: Any) -> Tensor | None:
    """Returns the labels [n] that a data set lists as `targets` or `labels`, through subsets, or None."""
    if isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset)
        return None if labels is None else labels[list(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1]
    for key in ("targets", "labels"):
        try:
            labels = torch.as_tensor(getattr(dataset, key))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            continue
        if labels.dim() == 1 and len(labels) == _size(dataset) and not labels.is_floating_point():
            return labels.long()
    return None


def _dataset(what: str, given: Any) -> Dataset:
    if isinstance(given, (tuple, list, TensorDataset)):
        return TensorDataset(*_pair(what, given))
    if isinstance(given, IterableDataset) or not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise PlanError(f"{what} must be a data set with a length and items by index, not {type(given).__name__}")
    if _size(given) == 0:
        raise PlanError(f"{what} is empty")
    return given


def _size(dataset: Any) -> int:
    return len(dataset)


def _class_count(name: str, labels: Mapping[str, Tensor], classes: Any) -> int:
    if classes is not None and (type(classes) is not int or classes < 1):
        raise PlanError(f"data '{name}': classes must be a positive integer, not {classes!r}")
    known = classes if classes is not None else int(labels["train"].max()) + 1
    for part, y in labels.items():
        if int(y.max()) >= known:
            limit = f"there are {known} classes" if classes is not None else f"train has {known} classes"
            raise PlanError(f"data '{name}': {part} has label {int(y.max())}, but {limit}, labels 0 to {known - 1}")
    return known


def _pair(what: str, given: Any) -> Pair:
    if isinstance(given, TensorDataset):
        given = given.tensors
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise PlanError(f"{what} must be a pair (x, y) of tensors or a data set, not {type(given).__name__}")
    try:
        x, y = (torch.as_tensor(t).detach().cpu() for t in given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PlanError(f"{what}: x and y must be tensors or arrays: {error}") from None
    if x.dim() < 2 or len(x) == 0:
        raise PlanError(f"{what} is empty: x is {list(x.shape)}; expected [images, ...]")
    if y.dim() != 1 or len(y) != len(x):
        raise PlanError(f"{what}: y is {list(y.shape)}; expected one label for each of the {len(x)} entries of x")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise PlanError(f"{what}: labels must be integers, not {y.dtype}")
    if int(y.min()) < 0:
        raise PlanError(f"{what}: labels start at 0, but there is {int(y.min())}")
    if x.is_complex() or x.dtype == torch.bool:
        raise PlanError(f"{what}: x must hold real numbers, not {x.dtype}")
    if x.is_floating_point() and not finite(x):
        raise PlanError(f"{what}: x has values that are not finite")
    kind = torch.float32 if x.is_floating_point() else torch.uint8 if x.dtype == torch.uint8 else torch.int64
    return x.to(kind), y.long()
