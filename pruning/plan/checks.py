"""Refusals: one line that names the thing and what is allowed, with the nearest valid name where one is near."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from pruning.errors import PlanError, suggest
from pruning.plan.lengths import shown
from pruning.plan.names import PHASE_NAMES


def choices(literal: Any) -> tuple[str, ...]:
    """Returns the values of a Literal, also where it is one side of a union with None."""
    if isinstance(literal, types.UnionType) or typing.get_origin(literal) is typing.Union:
        return tuple(v for arg in typing.get_args(literal) for v in choices(arg))
    return tuple(v for v in typing.get_args(literal) if isinstance(v, str))


def explain(error: ValidationError, kind: type[BaseModel] | None = None) -> str:
    """Returns pydantic's complaint as one line in the house's words, with the nearest valid name where one is near."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"] if part not in PHASE_NAMES)
        given = item.get("input")
        if item["type"] == "extra_forbidden":
            known = sorted(kind.model_fields) if kind else []
            hint = suggest(where.rsplit(".", 1)[-1], known)
            lines.append(
                f"unknown setting '{where}'{hint}; known: {', '.join(known)}" if known else f"unknown setting '{where}'"
            )
        elif item["type"] == "missing":
            lines.append(f"'{where}' is missing")
        elif item["type"] == "literal_error":
            field = kind.model_fields.get(str(item["loc"][-1])) if kind else None
            allowed = choices(field.annotation) if field else ()
            hint = suggest(str(given), allowed)
            expected = ", ".join(allowed) if allowed else item["ctx"]["expected"]
            lines.append(f"{where} '{given}' is unknown{hint}; allowed: {expected}")
        elif item["type"] == "value_error":
            lines.append(str(item["ctx"]["error"]) if "ctx" in item else item["msg"])
        else:
            number = isinstance(given, (int, float)) and not isinstance(given, bool)
            percent = number and "sparsity" in where and 1 < given < 100
            hint = f" (did you mean {given / 100:g}?)" if percent else ""
            lines.append(f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}, not {shown(given)}{hint}")
    return "; ".join(dict.fromkeys(lines))


def make(kind: type[Any], settings: Mapping[str, Any]) -> Any:
    """Returns `kind(**settings)`; raises PlanError with a readable message where they do not fit."""
    try:
        return kind(**settings)
    except ValidationError as error:
        raise PlanError(explain(error, kind)) from None
