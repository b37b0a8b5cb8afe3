"""What holds of settings together: which of them a named entry uses, as its table says."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from pruning.registry import table


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def check_method(phase: Any, otherwise: str) -> None:
    """Raises ValueError where a phase's method, its options and its goal do not fit; `otherwise` says how else to prune."""
    if phase.method == "none" and (phase.method_options or phase.exclude):
        unused = (
            f"method_options {sorted(phase.method_options)}" if phase.method_options else f"exclude {phase.exclude}"
        )
        raise ValueError(f"{unused} are not used without a method")
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
