"""What names stand for: criteria, allocations, schedules, methods ..., one table for each kind, beside what it names.

A table is a literal of entries; an entry holds the function or class, a line on it, and every fact that others need to know
about it. :func:`register` adds an entry for this process. Wherever such a name is asked for, it may also be
"file.py:name" or "package.module:name": an entry, a function or a class in the user's own code, under the same rules as a
model of theirs. Nothing here imports torch: an entry may give its function as "module:name", imported on first use.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from pruning import usercode
from pruning.errors import PlanError, suggest


@dataclass(frozen=True)
class Entry:
    """What a name stands for; `summary` is the line on it in listings."""

    summary: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Function(Entry):
    """A function or class, or "module:name" to import it from on first use."""

    function: Callable[..., Any] | str

    def load(self) -> Any:
        """Returns the function or class itself."""
        if not isinstance(self.function, str):
            return self.function
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


E = TypeVar("E", bound=Entry)


class Registry(Mapping[str, E], Generic[E]):
    """The entries of one kind by name, in the order in which they are listed; all of them are of the class `entry`."""

    def __init__(self, kind: str, entry: type[E], table: Mapping[str, E]) -> None:
        self.kind, self.entry, self._table = kind, entry, dict(table)
        self._code: dict[tuple[str, str], E] = {}  # of the user's own, by name and content

    def __getitem__(self, name: str) -> E:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def known(self, name: str) -> E | None:
        """Returns the entry, or None for a name of the user's own code, of which nothing is executed; PlanError for others."""
        if name in self._table:
            return self._table[name]
        if usercode.is_code(name):
            return None
        allowed = ", ".join(self._table)
        raise PlanError(f"{self.kind} '{name}' is unknown{suggest(name, self._table)}; allowed: {allowed}")

    def find(self, name: str) -> E:
        """Returns the entry of a name, the user's own code loaded; PlanError where there is none."""
        found = self.known(name)
        if found is not None:
            return found
        key = (name, usercode.resolve(name)[1])
        if key not in self._code:
            self._code[key] = self.made(usercode.load_any(name), name)
        return self._code[key]

    def made(self, thing: Any, name: str, **facts: Any) -> E:
        """Returns the entry of a thing: itself, or a function or class with what is to be known about it."""
        allowed = [f.name for f in dataclasses.fields(self.entry) if f.name != "function"]
        for fact in facts:
            if fact not in allowed:
                what = f"a {self.kind} has no '{fact}'{suggest(fact, allowed)}"
                raise PlanError(f"{what}; allowed: {', '.join(allowed)}")
        if isinstance(thing, Entry):
            if not isinstance(thing, self.entry):
                raise PlanError(
                    f"'{name}' is a {type(thing).__name__}, not a {self.entry.__name__}, which a {self.kind} is"
                )
            return dataclasses.replace(thing, **facts)
        if not callable(thing) or not issubclass(self.entry, Function):
            wanted = self.entry.__name__ + (", a function or a class" if issubclass(self.entry, Function) else "")
            raise PlanError(f"'{name}' is no {self.kind}: it must be a {wanted}, not a {type(thing).__name__}")
        summary = " ".join((getattr(thing, "__doc__", "") or "").partition("\n")[0].split())
        entry: Any = self.entry
        return cast(E, entry(**{"function": thing, "summary": summary, **facts}))

    def add(self, name: str, thing: Any, **facts: Any) -> None:
        """Adds an entry for this process; PlanError where the name is taken or is none."""
        if not isinstance(name, str) or not name or ":" in name or name != name.strip():
            raise PlanError(f"{name!r} is no name for a {self.kind}: it needs letters, and no colon or outer spaces")
        if name in self._table:
            raise PlanError(f"{self.kind} '{name}' exists already; choose another name")
        self._table[name] = self.made(thing, name, **facts)


TABLES = {
    "criterion": "pruning.deciding.criteria:CRITERIA",
    "allocation": "pruning.deciding.allocation:ALLOCATIONS",
    "ablation": "pruning.deciding.ablations:ABLATIONS",
    "technique": "pruning.plan.techniques:TECHNIQUES",
    "schedule": "pruning.training.schedules:SCHEDULES",
    "retraining schedule": "pruning.training.schedules:RETRAIN_SCHEDULES",
    "method": "pruning.training.methods:METHODS",
    "optimizer": "pruning.training.optimizers:OPTIMIZERS",
    "task": "pruning.training.tasks:TASKS",
    "executor": "pruning.study.sweep.executors:EXECUTORS",
}


def table(kind: str) -> Registry[Any]:
    """Returns the table of a kind, one of TABLES; it is imported on first use and needs no torch."""
    if kind not in TABLES:
        raise PlanError(f"kind '{kind}' is unknown{suggest(kind, TABLES)}; allowed: {', '.join(TABLES)}")
    module, _, name = TABLES[kind].partition(":")
    return cast("Registry[Any]", getattr(importlib.import_module(module), name))


def register(kind: str, name: str, thing: Any, **facts: Any) -> None:
    """Adds a criterion, an allocation, a schedule, a method ... (a kind of TABLES) under `name`, for this process.

    `thing` is the function or class, with the signature of its kind, and `facts` are the other fields of the kind's entry,
    as `needs="labels"` of a criterion; or it is such an entry itself. Raises PlanError for a name that is taken.
    """
    table(kind).add(name, thing, **facts)
