"""How options are declared: with help texts that name what is allowed, and with completion that needs no torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable
from typing import Any

from typer import Option

from pruning import plan
from pruning.plan import choices

# what may also be code of the user's own
CODED = (plan.Criterion, plan.Allocation, plan.Ablation, plan.Technique, plan.RetrainSchedule, plan.MethodName)


def complete(names: Iterable[str] | Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Returns a completion callback that offers those of `names` that begin with what was typed."""

    def offer(incomplete: str) -> list[str]:
        return [name for name in (names() if callable(names) else names) if name.startswith(incomplete)]

    return offer


def run_folders(incomplete: str) -> list[str]:
    """Returns the run folders, here or one level down, whose paths begin with what was typed."""
    found = [*glob.glob(f"{incomplete}*/phase.json"), *glob.glob(f"{incomplete}*/*/phase.json")]
    return sorted(os.path.dirname(path) for path in found)


def default(text: str) -> str:
    """Returns the note that a help text ends with where the default is not the option's own but, say, the plan's."""
    return f" [dim]\\[default: {text}][/]"


def named(literal: Any, help: str, panel: str, own: str = "") -> Any:
    """Returns an option that takes one of a Literal's names. The plan checks it, so that the error can suggest one."""
    names = choices(literal)
    more = ", or your own as file.py:name" if any(literal is other for other in CODED) else ""
    text = f"{help} One of: {', '.join(names)}{more}.{default(own) if own else ''}"
    return Option(metavar="NAME", help=text, rich_help_panel=panel, autocompletion=complete(names))


def flag(name: str, help: str, panel: str, *short: str, **more: Any) -> Any:
    """Returns an option that is given or not, and takes no value."""
    return Option(name, *short, help=help, rich_help_panel=panel, metavar="", **more)
