"""Turns every failure of a command into one line on standard error and an exit code.

0 done | 1 the thing asked for cannot be done | 2 the command line is wrong | 130, 143 interrupted, and resumable.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from pruning.plan import PlanError


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception that takes the same way out as Ctrl-C."""


def on_sigterm(signum: int, frame: object) -> None:
    """Raises Terminated; to be installed with signal.signal."""
    raise Terminated


def one_line(error: BaseException) -> str:
    """Returns what an exception says, in one line, with its type where it is none of the house's own."""
    if isinstance(error, typer.TyperException):
        return " ".join(error.format_message().split())
    text = " ".join(str(error).split())
    if isinstance(error, PlanError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Returns whether there was too little memory, of the computer or of a GPU, which is no fault in the code."""
    # torch's own error goes by its name, as torch is not imported here
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


RESUMING = ("train", "prune", "retrain", "iterate", "run", "sweep", "compare")


class Commands(TyperGroup):
    """The group of all commands, with the one place where exceptions end."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Returns what the command returns; an exception becomes `error: ...` and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            resumes = ctx.invoked_subcommand in RESUMING
            print("interrupted" + ("; the same command, given again, resumes" if resumes else ""), file=sys.stderr)
            code = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
            raise typer.Exit(128 + code) from None
        except BrokenPipeError:
            # The reader went away; what was to be written has no reader, and Python's own flush at exit must not fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as error:
            if ctx.meta.get("debug"):
                traceback.print_exc()
            known = isinstance(error, (PlanError, OSError)) or out_of_memory(error)
            what = "" if known else f"prune {ctx.invoked_subcommand}: "
            hint = "" if known else " (a fault of prune's own: please report it with what --debug prints)"
            print(f"error: {what}{one_line(error)}{hint}", file=sys.stderr)
            raise typer.Exit(1) from None

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs the command line and ends the process with its exit code."""
        standalone = options.get("standalone_mode", True)
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except typer.TyperException as error:
            if text := one_line(error):
                context = getattr(error, "ctx", None)
                hint = f" (see {context.command_path} --help)" if context else ""
                print(f"error: {text}{hint}", file=sys.stderr)
            code = error.exit_code
        except OSError as error:  # the help text has nowhere to go
            print(f"error: {one_line(error)}", file=sys.stderr)
            code = 1
        if standalone:
            sys.exit(code if isinstance(code, int) else 0)
        return code
