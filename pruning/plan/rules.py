"""What holds of settings together: which of them a named entry uses, as its table says."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from pruning.plan.lengths import shown
from pruning.registry import table


class Settings(BaseModel):
    """Settings that admit no unknown key, and take no word or truth value for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _uncoerced(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            kinds = _kinds(field.annotation) if field is not None else set()
            if isinstance(value, (bool, str)) and kinds & {int, float} and type(value) not in kinds:
                raise ValueError(f"{name} takes a number, not {shown(value)}")
            if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
                raise ValueError(f"{name} takes a number below 2^63, not {shown(value)}")
        return values


def _kinds(annotation: Any) -> set[Any]:
    """Returns the types that an annotation admits, those of a union one by one."""
    args = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kinds(args[0])
    if origin in (typing.Union, types.UnionType):
        return {kind for arg in args for kind in _kinds(arg)}
    return {annotation}


def check_method(phase: Any, otherwise: str) -> None:
    """Raises ValueError where a phase's method, its options and its goal do not fit; `otherwise` says how else to prune."""
    for name in ("method_options", "exclude", "include"):
        if phase.method == "none" and (given := getattr(phase, name)):
            raise ValueError(
                f"{name} {sorted(given) if isinstance(given, dict) else given} are not used without a method"
            )
    entry = table("method").known(phase.method)
    if entry is None:  # the user's own, which says more when it is loaded
        return
    if entry.goal and phase.sparsity is None:
        raise ValueError(f"method '{phase.method}' needs a sparsity, its goal")
    if not entry.goal and phase.sparsity is not None:
        why = otherwise if phase.method == "none" else "its sparsity follows from its options; search for one"
        users = ", ".join(name for name, other in table("method").items() if other.goal)
        raise ValueError(f"sparsity is not used by method '{phase.method}': {why}; methods with a goal: {users}")


def check_options(phase: Any, name: str, settings: tuple[str, ...]) -> None:
    """Raises ValueError where one of the settings is given that only some entries of a table use, and the named one does not."""
    entries = table(name)
    entry = entries.known(getattr(phase, name))
    for setting in settings:
        given = getattr(phase, setting) != type(phase).model_fields[setting].default
        if entry is not None and given and setting not in entry.options:
            users = ", ".join(f"'{other}'" for other, found in entries.items() if setting in found.options)
            verb = "are" if setting.endswith("s") else "is"
            raise ValueError(f"{setting} {verb} used by {name} {users} only, not by '{getattr(phase, name)}'")
