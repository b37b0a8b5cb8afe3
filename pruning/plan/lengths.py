"""How long a training or retraining is: epochs, whole or a part of one, or a number of steps.

epochs = 40            epochs = 0.25            epochs = "500 steps"
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

_STEPS = re.compile(r"\s*([0-9]{1,12})\s*steps?\s*")
MOST_EPOCHS, MOST_STEPS = 10**7, 10**11  # beyond these a number is a slip
ALLOWED = (
    f"a number of epochs above 0 and up to {MOST_EPOCHS:,}, such as 40 or 0.25, or of steps up to {MOST_STEPS:,}, "
    'such as "500 steps"'
)


def parse(value: Any, name: str = "epochs") -> int | float | str:
    """Returns a length in its one form: whole epochs as int, others as float, steps as "500 steps"; ValueError for others."""
    if isinstance(value, str):
        match = _STEPS.fullmatch(value)
        if match and 0 < int(match[1]) <= MOST_STEPS:
            return f"{int(match[1])} steps"
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= MOST_EPOCHS:
        return int(value) if value == int(value) else float(value)
    raise ValueError(f"{name} takes {ALLOWED}, not {shown(value)}")


def shown(value: Any) -> str:
    """Returns a value as an error shows it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _checked(value: Any, info: ValidationInfo) -> int | float | str:
    return parse(value, str(info.field_name))


def _epoch(value: Any, info: ValidationInfo) -> int | float:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if plain and 0 <= value <= MOST_EPOCHS:
        return int(value) if value == int(value) else float(value)
    raise ValueError(f"{info.field_name} takes epochs from 0, such as 10 or 0.25, not {shown(value)}")


Epoch = Annotated[int | float, BeforeValidator(_epoch)]  # a point of a training, after so many epochs
Length = Annotated[int | float | str, BeforeValidator(_checked)]


def in_steps(length: int | float | str, per_epoch: int) -> int:
    """Returns how many steps a length has, to the nearest, halves up, at least 1, where an epoch has `per_epoch`."""
    return int(length.split()[0]) if isinstance(length, str) else max(1, _nearest(length * per_epoch))


def point(epoch: int | float, length: int | float | str, per_epoch: int) -> int:
    """Returns after how many steps of a training of `length` so many epochs are done.

    A part of an epoch counts from the training's end, so that a retraining for the rest of the epochs starts there to the step.
    """
    last, total = known_epochs(length), in_steps(length, per_epoch)
    if isinstance(epoch, int) or last is None:
        return _nearest(epoch * per_epoch)
    return total if epoch >= last else max(0, total - in_steps(last - epoch, per_epoch))


def _nearest(steps: float) -> int:
    return math.floor(round(steps, 6) + 0.5)  # 159.9 epochs of 35 steps are 5596.5 steps, and 5596.499... as floats


def in_epochs(steps: int, per_epoch: int) -> int | float:
    """Returns how many epochs a number of steps is, an int where they are whole."""
    return steps // per_epoch if steps % per_epoch == 0 else steps / per_epoch


def known_epochs(length: int | float | str) -> int | float | None:
    """Returns the epochs of a length, None where it is in steps: how many they are depends on the data."""
    return None if isinstance(length, str) else length


def ratio(one: int | float | str, other: int | float | str) -> float | None:
    """Returns how many times as long one length is as the other; None where one is in steps and the other in epochs."""
    if isinstance(one, str) != isinstance(other, str):
        return None
    return in_steps(one, 1) / in_steps(other, 1) if isinstance(one, str) else one / float(other)


def times(length: int | float | str, factor: float) -> int | float | str:
    """Returns the length times a factor: whole epochs to the nearest whole one, at least 1, steps likewise."""
    if isinstance(length, str):
        return f"{max(1, round(int(length.split()[0]) * factor))} steps"
    return max(1, round(length * factor)) if isinstance(length, int) else parse(length * factor)


def total(parts: Iterable[int | float | str | None]) -> int | float:
    """Returns the epochs of several lengths together, those in steps and those not given left out."""
    found = sum(length for length in parts if isinstance(length, (int, float)))
    return found if isinstance(found, int) else round(found, 9)


def total_steps(parts: Iterable[int | float | str | None]) -> int:
    """Returns the steps of several lengths together, those in epochs and those not given left out."""
    return sum(in_steps(length, 1) for length in parts if isinstance(length, str))


def said(length: int | float | str) -> str:
    """Returns `40 epochs`, `0.25 epochs` or `500 steps`."""
    return length if isinstance(length, str) else counted(length, "epoch")


def counted(number: float, what: str) -> str:
    """Returns `1 run` or `3 runs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
