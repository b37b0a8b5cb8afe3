"""Text files of a run folder, read as what may come from anywhere: regular files of bounded size, JSON of bounded depth."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pruning.errors import PlanError
from pruning.plan import SCHEMA

JSON_BYTES = 64 * 2**20  # a summary of a network with 10,000 layers takes 2 MiB
LOG_BYTES = 2**30
DEPTH = 64

M = TypeVar("M", bound=BaseModel)


def read_text(path: Path, limit: int = JSON_BYTES) -> str:
    """Returns the text of a regular file; PlanError where it is missing, no such file, larger than `limit` bytes or no UTF-8."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe with no writer would hang
    except FileNotFoundError:
        raise PlanError(f"{path} does not exist") from None
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from None
    with open(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise PlanError(f"{path} is damaged: it is no regular file")
        if about.st_size > limit:
            raise PlanError(f"{path} is damaged: it has {about.st_size:,} bytes; at most {limit:,} are read")
        try:
            return file.read(limit + 1).decode()
        except UnicodeDecodeError as error:
            raise PlanError(f"{path} is damaged: it is no UTF-8 text (byte {error.start})") from None
        except OSError as error:
            raise PlanError(f"{path} cannot be read: {error.strerror}") from None


def parse(text: str) -> Any:
    """Returns the JSON value of a text; ValueError where it is none, holds NaN or infinities, or is nested beyond DEPTH."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value, DEPTH)
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise ValueError(f"it is nested more than {DEPTH} levels deep")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(inner, (dict, list)):
            _check_depth(inner, left - 1)


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file of this schema; raises PlanError where it is missing, damaged or of a newer one."""
    try:
        value = parse(read_text(path))
    except PlanError:
        raise
    except ValueError as error:
        raise PlanError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise PlanError(f"{path} is damaged: it holds no JSON object")
    if value.get("schema") != SCHEMA or isinstance(value.get("schema"), bool):
        raise PlanError(f"{path} has schema {value.get('schema')!r}; this version reads schema {SCHEMA}")
    return value


def checked(model: type[M], value: Any, path: Path) -> M:
    """Returns the value as the model; raises PlanError, which names the file and the key, where a type does not fit."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PlanError(f"{path} is damaged: '{where}': {first['msg'][0].lower()}{first['msg'][1:]}") from None
