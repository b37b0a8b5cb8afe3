"""The screen: progress and tables on standard error. The only file in the house that imports rich."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pruning.events import Downloading, EpochDone, Event, PhaseDone, PhaseStarted, Warned
from pruning.events import Progress as Advanced
from pruning.plan.lengths import counted

from .formats import duration, megabytes, metric, metric_name, sparsity

PLAIN_WIDTH = 200  # of a log file: a table's line is not broken at a terminal's edge that is not there


class Screen:
    """Listens to the engine and draws: bars on a terminal, one line for each phase's start and end elsewhere.

    To be used in a `with` statement, so that the bars are gone before anything else is written.
    """

    def __init__(self, *, quiet: bool = False, phases: int = 1) -> None:
        self.terminal = terminal = sys.stderr.isatty()
        self.console = Console(
            stderr=True,
            quiet=quiet,
            highlight=False,
            emoji=False,
            soft_wrap=not terminal,
            width=None if terminal else PLAIN_WIDTH,
        )
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
            transient=True,
            disable=quiet or not terminal or self.console.is_dumb_terminal,
            refresh_per_second=5,
        )
        self.phases = phases
        self.phase = 0  # how many have begun
        self.epochs: float = 0
        self.present: TaskID | None = None
        self.named: dict[str, TaskID] = {}

    def __enter__(self) -> Screen:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def tell(self, event: Event) -> None:
        """Draws one event of the engine."""
        match event:
            case PhaseStarted():
                self._started(event)
            case Advanced(done=done, total=total, unit=unit):
                self._bar(done, total, unit)
            case Downloading(url=url, folder=folder, size=size):
                self.line(f"{'download':<8} {escape(url)} ({megabytes(size)}) to {escape(folder)}")
            case EpochDone():
                if self.present is not None:
                    self.bars.update(self.present, note=_note(event, self.epochs))
            case Warned(text=text):
                self.line(f"[yellow]warning:[/] {escape(text)}")
            case PhaseDone():
                self._done(event)

    def _started(self, event: PhaseStarted) -> None:
        self.phase += 1
        self.epochs = event.epochs
        if event.reused:
            return
        if self.present is not None:  # of what went before the phase
            self.bars.remove_task(self.present)
        if self.bars.disable and event.epochs:
            resumed = f", resumed after epoch {event.epoch}" if event.epoch else ""
            length = f"{counted(round(event.epochs, 4), 'epoch')}, {counted(event.steps, 'step')}"
            self.line(f"{event.phase:<8}{escape(event.run)}: {length}{resumed}")
        name = f"{self.phase}/{self.phases} {event.phase}" if self.phases > 1 else event.phase
        self.present = self.bars.add_task(name, total=event.steps or None, unit="steps", note="")

    def _bar(self, done: int, total: int, unit: str) -> None:
        if self.present is None:
            self.present = self.bars.add_task("", total=total, unit=unit, note="")
        self.bars.update(self.present, completed=done, total=total, unit=unit)

    def _done(self, event: PhaseDone) -> None:
        if self.present is not None:
            self.bars.remove_task(self.present)
            self.present = None
        result = event.summary
        facts = [
            f"{result.get('metric_name') or 'accuracy'} {metric(result)}",
            f"sparsity {sparsity(result)}",
        ]
        facts.append("done before" if event.reused else duration(result.get("seconds")))
        self.line(f"{result.get('phase') or '':<8}{escape(event.run)}: {', '.join(facts)}")

    def board(self, bars: Mapping[str, tuple[float, float, str, str]]) -> None:
        """Shows exactly these bars, {name: (done, total, unit, note)}; where there is no terminal, nothing."""
        for name in [name for name in self.named if name not in bars]:
            self.bars.remove_task(self.named.pop(name))
        for name, (done, total, unit, note) in bars.items():
            if name not in self.named:
                self.named[name] = self.bars.add_task(escape(name), total=total, unit=unit, note=note)
            self.bars.update(self.named[name], completed=done, total=total, unit=unit, note=note)

    def line(self, text: str) -> None:
        """Writes one line, which may hold rich's markup."""
        self._print(Text.from_markup(text, emoji=False))

    def _print(self, text: Text) -> None:
        """Writes a text, on a terminal broken into lines between words, where no number is parted from its unit."""
        lines = wrapped(text, self.width) if self.terminal else [text]
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def plain(self, lines: Sequence[str]) -> None:
        """Writes lines as they are."""
        for line in lines:
            self.console.print(Text(line), soft_wrap=True)

    @property
    def unicode(self) -> bool:
        """Returns whether the terminal takes more than ASCII."""
        return self.console.encoding.startswith("utf")

    @property
    def width(self) -> int:
        """Returns how many columns a line has."""
        return self.console.width

    @property
    def stdout_is_terminal(self) -> bool:
        """Returns whether a person reads standard output, and so sees the tables as well."""
        return sys.stdout.isatty()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Writes a table of :mod:`screen_tables`, whose headers begin with `>` for numbers and `~` for what may be broken."""
        self._print(Text(title, style="bold"))
        left_out = too_wide(columns, rows, self.width)
        columns = [column for i, column in enumerate(columns) if i not in left_out]
        rows = [[cell for i, cell in enumerate(row) if i not in left_out] for row in rows]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.show_header = any(column.strip(">~") for column in columns)
        table.padding, table.collapse_padding = (0, 1), True
        for column in columns:
            justify: JustifyMethod = "right" if column.startswith(">") else "left"
            name, number = column.lstrip(">~"), column.startswith(">")
            table.add_column(
                Text(name), justify=justify, no_wrap=number, overflow="fold", min_width=len(name) if number else 4
            )
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)
        if left_out:
            names = ", ".join(sorted(left_out.values()))
            self.line(f"[dim]left out on {self.width} columns: {escape(names)} (--json has all)[/]")


def too_wide(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> dict[int, str]:
    """Returns {place: name} of the columns of numbers that a table on `width` columns leaves out, so that no number is cut.

    What may be broken into lines needs a few letters; the columns of LEAST go first, then those further right.
    """
    words = min(WORDS, max(FEWEST, width // 5))
    names = [column.lstrip(">~") for column in columns]
    longest = [max([len(name), *(len(row[i]) for row in rows)]) for i, name in enumerate(names)]
    widths = [n if column.startswith(">") else min(n, words) for n, column in zip(longest, columns, strict=True)]
    numbers = [i for i, column in enumerate(columns) if column.startswith(">")]
    order = sorted(numbers, key=lambda i: (LEAST.index(names[i]) if names[i] in LEAST else len(LEAST), -i))
    left_out: dict[int, str] = {}
    while order[1:] and sum(2 + w for i, w in enumerate(widths) if i not in left_out) > width:
        place = order.pop(0)
        left_out[place] = names[place]
    return left_out


def wrapped(text: Text, width: int) -> list[Text]:
    """Returns the lines of a text, broken between words, where no number is parted from its unit; a path is one word."""
    breaks, used = [], 0
    for word in WORD.finditer(text.plain):
        if used and used + len(word[0].rstrip()) > width:
            breaks.append(word.start())
            used = 0
        used += len(word[0])
    lines = list(text.divide(breaks))
    for line in lines:
        line.rstrip()
    return lines


WORDS, FEWEST = 16, 8  # columns that a word may have, and must have, before numbers are left out for it
LEAST = (
    "images/s", "stability", "seeds", "nonzero", "val. acc.", "weights", "MACs", "steps", "nonzero MACs", "time", "speedup",
)  # fmt: skip
WORD = re.compile(r"(?:\S|(?<=[0-9]) (?=[A-Za-z%]))+\s*")  # a number, a space and a unit are one


def _note(event: EpochDone, epochs: float) -> str:
    record, name = event.record, metric_name([{"metric_name": event.metric}], short=True)
    epoch, last = record.get("epoch"), round(epochs, 4)  # the last epoch may be a part of one
    parts = [f"epoch {min(epoch, last) if isinstance(epoch, int) else epoch}/{last}"]
    if (loss := record.get("train_loss")) is not None:
        parts.append(f"loss {loss:.4f}")
    if record.get("val_metric", record.get("val_accuracy")) is not None:
        parts.append(f"val. {name} {metric({**record, 'metric_scale': event.scale}, 1, 'val_metric')}")
    return ", ".join(parts)
