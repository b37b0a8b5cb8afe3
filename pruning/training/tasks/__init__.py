"""What a network learns, by name: how it is called, what its loss is, and the one number that says how well it does.

A data set says which task it is for; "classification" where it says nothing. :mod:`pruning.training.tasks.base` documents what
a task must say.
"""

from __future__ import annotations

from dataclasses import dataclass

from pruning.registry import Function, Registry


@dataclass(frozen=True)
class TaskEntry(Function):
    """A subclass of :class:`pruning.training.tasks.base.Task`, made without arguments."""


TASKS = Registry(
    "task",
    TaskEntry,
    {
        "classification": TaskEntry(
            "pruning.training.tasks.classification:Classification",
            summary="one class for each example: cross-entropy, accuracy",
        ),
    },
)
