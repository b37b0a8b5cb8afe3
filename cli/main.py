"""The command line: `prune COMMAND`. Commands live in one file each; torch is imported inside them, never here."""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Callable
from typing import Annotated

import typer

from pruning import __version__

from .adopt import adopt
from .compare import compare_plans
from .doctor import doctor
from .errors import Commands, on_sigterm
from .eval import evaluate
from .examples import epilog
from .export import export
from .flops import flops
from .iterate import iterate
from .list import list_kinds
from .prune import prune
from .report import report
from .retrain import retrain
from .run import run
from .schedule import schedule
from .show import show
from .shrink import shrink
from .sweep import sweep_study
from .train import train
from .verify import verify

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=epilog(),
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pruning {__version__}")
        raise typer.Exit


def prune_neural_networks(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Prune neural networks: train, remove weights, win the accuracy back, count what is left.

    A run is one phase done (train, prune or retrain), kept in a folder of its own. The result, a run folder's path,
    goes to standard output; all else goes to standard error. A command given again resumes or reuses its run.
    """


def unwrapped(command: Callable[..., None]) -> str:
    """Returns a docstring with every paragraph on one line, to be broken anew at the terminal's width."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(command.__doc__ or "").split("\n\n"))


WORK, LOOK = "Work", "Look"
COMMANDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("train", WORK, train),
    ("adopt", WORK, adopt),
    ("prune", WORK, prune),
    ("retrain", WORK, retrain),
    ("iterate", WORK, iterate),
    ("run", WORK, run),
    ("sweep", WORK, sweep_study),
    ("shrink", WORK, shrink),
    ("export", WORK, export),
    ("compare", WORK, compare_plans),
    ("eval", LOOK, evaluate),
    ("flops", LOOK, flops),
    ("show", LOOK, show),
    ("schedule", LOOK, schedule),
    ("report", LOOK, report),
    ("list", LOOK, list_kinds),
    ("verify", LOOK, verify),
    ("doctor", LOOK, doctor),
)
app.callback(help=unwrapped(prune_neural_networks))(prune_neural_networks)
for name, panel, command in COMMANDS:
    app.command(name, rich_help_panel=panel, help=unwrapped(command), epilog=epilog(name))(command)


def main() -> None:
    """Runs the command line: the console script `prune`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    app(prog_name="prune")
