"""Plans from TOML: built-in recipes by name, files by path."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pruning.errors import PlanError, suggest
from pruning.plan.checks import explain, make
from pruning.plan.phases import PHASES, Prune
from pruning.plan.plans import Iterate, Plan


def load_plan(name_or_path: str) -> Plan:
    """Returns the plan of a built-in recipe's name or of a TOML file; raises PlanError with the nearest name."""
    return make_plan(*read_plan(name_or_path))


def read_plan(name_or_path: str) -> tuple[dict[str, Any], str, str]:
    """Returns (table, name, source) of a recipe's name or of a TOML file: the plan as it is written, nothing expanded."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"plan '{name_or_path}' cannot be read: {error}") from None
        return read_toml(text, f"plan '{name_or_path}'"), path.stem, name_or_path
    if name_or_path not in recipe_names():
        near = difflib.get_close_matches(name_or_path, recipe_names(), n=4, cutoff=0.4)
        nearest = f"; allowed: {', '.join(near)} ..." if near else ""
        raise PlanError(
            f"recipe '{name_or_path}' is unknown{suggest(name_or_path, recipe_names())}{nearest} "
            "(prune list recipes names all), or a path that ends in .toml"
        )
    text = resources.files("pruning.plan.recipes").joinpath(f"{name_or_path}.toml").read_text()
    source = f"recipe '{name_or_path}'"
    return read_toml(text, f"plan '{source}'"), name_or_path, source


def parse_plan(text: str, name: str, source: str) -> Plan:
    """Returns the plan that a TOML text states; `iterate` phases are expanded."""
    return make_plan(read_toml(text, f"plan '{source}'"), name, source)


def read_toml(text: str, what: str) -> dict[str, Any]:
    """Returns the table that a TOML text states; raises PlanError, which says `what` it is that cannot be read."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{what} is not valid TOML: {error}") from None
    except (RecursionError, ValueError):
        raise PlanError(f"{what} is nested too deeply, or holds a number of too many digits") from None


def make_plan(table: Mapping[str, Any], name: str, source: str) -> Plan:
    """Returns the plan of a table as it stands in TOML; `iterate` phases are expanded."""
    table = dict(table)
    entries = table.pop("phases", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PlanError(f"plan '{source}': phases must be a list of tables, [[phases]]")
    phases: list[Any] = []
    density = 1.0
    try:
        for i, entry in enumerate(entries):
            kind = entry.get("phase")
            allowed = [*PHASES, "iterate"]
            if kind not in allowed:
                raise PlanError(
                    f"phases.{i}: phase '{kind}' is unknown{suggest(str(kind), allowed)}; allowed: {', '.join(allowed)}"
                )
            if kind == "iterate":
                iterate = make(Iterate, entry)
                phases += iterate.phases(density)
                density = 1.0 - iterate.sparsity
                continue
            phase = make(PHASES[kind], entry)
            density = 1.0 - phase.sparsity if isinstance(phase, Prune) else density
            phases.append(phase)
        return make(Plan, {"name": name, **table, "phases": phases})
    except PlanError as error:
        raise PlanError(f"plan '{source}': {error}") from None
    except ValidationError as error:
        raise PlanError(f"plan '{source}': {explain(error)}") from None


def recipe_names() -> list[str]:
    """Returns the names of the built-in recipes, sorted."""
    return sorted(f.name[:-5] for f in resources.files("pruning.plan.recipes").iterdir() if f.name.endswith(".toml"))
