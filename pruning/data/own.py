"""A data set that a function of the user's own returns: (train, validation, test), or a dict with those keys.

Each part is a pair (x, y) of tensors or arrays; validation may be None, and is then split off. A uint8 x is taken for
images of 0 to 255. Labels are integers from 0; there are as many classes as the dict's "classes" says, or as the
largest training label shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pruning import usercode
from pruning.data.source import Pair, Source
from pruning.plan import PlanError

PARTS = ("train", "validation", "test")


def parts_of(name: str, offered: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the function gives for the three parts and "classes"; validation and classes may be None."""
    what = f"data '{name}'"
    given = usercode.call(what, usercode.load(name), offered, options)
    if isinstance(given, (tuple, list)) and len(given) == 3:
        given = dict(zip(PARTS, given, strict=True))
    if not isinstance(given, Mapping):
        raise PlanError(f"{what} must return (train, validation, test) or a dict of them, not {type(given).__name__}")
    unknown = set(given) - {*PARTS, "classes"}
    if unknown or given.get("train") is None or given.get("test") is None:
        raise PlanError(
            f"{what} must return train, validation (or None) and test, and may return classes, not {sorted(given)}"
        )
    return {key: given.get(key) for key in (*PARTS, "classes")}


def source_of(name: str, parts: Mapping[str, Any]) -> Source:
    """Returns the checked tensors of the parts; raises PlanError that names the part and what is wrong with it."""
    pairs = {part: _pair(f"data '{name}', {part}", parts[part]) for part in PARTS if parts[part] is not None}
    classes = class_count(name, {part: y for part, (_, y) in pairs.items()}, parts["classes"])
    first = pairs["train"][0]
    for part, (x, _) in pairs.items():
        if x.shape[1:] != first.shape[1:] or x.dtype != first.dtype:
            raise PlanError(
                f"data '{name}': {part} has values of {list(x.shape[1:])} {x.dtype}, "
                f"train has {list(first.shape[1:])} {first.dtype}"
            )
    scale = 255.0 if first.dtype == torch.uint8 else 1.0
    return Source(pairs["train"], pairs.get("validation"), pairs["test"], classes, scale=scale)


def class_count(name: str, labels: Mapping[str, Tensor], classes: Any) -> int:
    """Returns the number of classes; raises PlanError where a part has a label that training does not know."""
    if classes is not None and (type(classes) is not int or classes < 1):
        raise PlanError(f"data '{name}': classes must be a positive integer, not {classes!r}")
    known = classes if classes is not None else int(labels["train"].max()) + 1
    for part, y in labels.items():
        if int(y.max()) >= known:
            limit = f"there are {known} classes" if classes is not None else f"train has {known} classes"
            raise PlanError(f"data '{name}': {part} has label {int(y.max())}, but {limit}, labels 0 to {known - 1}")
    return known


def _pair(what: str, given: Any) -> Pair:
    if isinstance(given, torch.utils.data.TensorDataset):
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
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise PlanError(f"{what}: x has values that are not finite")
    kind = torch.float32 if x.is_floating_point() else torch.uint8 if x.dtype == torch.uint8 else torch.int64
    return x.to(kind), y.long()
