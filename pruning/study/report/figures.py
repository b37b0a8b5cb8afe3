"""Figures from plain numbers, as SVG with selectable text and as PNG (matplotlib, extra `plot`). Nothing here knows of runs."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.plan import PlanError

# Okabe and Ito's colours, told apart with every kind of colour vision; markers tell the lines apart in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MARKED = 12  # points of a line that have a marker, at most
PANEL_INCHES = (4.4, 3.2)  # so that 9-point letters stay legible on a telephone, where a panel is as wide as the screen


@dataclass(frozen=True)
class Line:
    """One line: points in order of x, with the bounds of their spread; `n` says how many runs are behind each point."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    n: Sequence[int] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes; `level` is a horizontal reference line, labelled; `first` is its first line's place among colours."""

    lines: Sequence[Line]
    title: str = ""
    level: tuple[str, float] | None = None
    first: int = 0
    bars: bool = False  # in place of lines


@dataclass(frozen=True)
class Figure:
    """A figure of one or more panels that share their labels; `ticks` names places on the x axis."""

    name: str
    title: str
    xlabel: str
    ylabel: str
    panels: Sequence[Panel]
    log_x: bool = False
    ticks: Sequence[tuple[float, str]] = field(default_factory=tuple)

    @property
    def description(self) -> str:
        """Returns what the figure shows, in words: for those who do not see it."""
        parts = [f"{self.title}. {self.ylabel} against {self.xlabel}."]
        for panel in self.panels:
            if panel.title:
                parts.append(f"{panel.title}:")
            for line in panel.lines:
                parts.append(_spoken(line))
            if panel.level:
                parts.append(f"{panel.level[0]} {panel.level[1]:.4g}.")
        return " ".join(parts)


def _spoken(line: Line) -> str:
    if not line.x:
        return f"{line.label}: no point."
    best = max(range(len(line.x)), key=lambda i: line.y[i])
    text = f"{line.label}: from {line.y[0]:.4g} at {line.x[0]:.4g} to {line.y[-1]:.4g} at {line.x[-1]:.4g}"
    return text + (f", highest {line.y[best]:.4g} at {line.x[best]:.4g}." if len(line.x) > 2 else ".")


def draw(figure: Figure, folder: Path) -> str:
    """Returns the figure as an `<svg>` element for a page, and writes folder/NAME.svg and folder/NAME.png."""
    svg, png = _render(figure)
    (folder / f"{figure.name}.png").write_bytes(png)
    (folder / f"{figure.name}.svg").write_text(_described(svg, figure, alone=True))
    return _described(svg[svg.index("<svg") :], figure, alone=False)


def save(figure: Figure, path: Path) -> None:
    """Writes the figure to one file, whose name ends in .svg or .png."""
    check_name(path)
    svg, png = _render(figure)
    try:
        path.write_bytes(png if path.suffix == ".png" else _described(svg, figure, alone=True).encode())
    except OSError as error:
        raise PlanError(f"figure '{path}' cannot be written: {error.strerror}") from None


def check_name(path: Path) -> None:
    """Raises PlanError where no figure can be written to the path."""
    if path.suffix not in (".svg", ".png"):
        raise PlanError(f"figure '{path}' must end in .svg or .png")
    if not path.parent.is_dir():
        raise PlanError(f"figure '{path}': the folder '{path.parent}' does not exist")


def _render(figure: Figure) -> tuple[str, bytes]:
    """Returns the figure as an SVG document and as a PNG."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise PlanError("figures need the extra: pip install 'pruning[plot]'") from None
    columns = min(2, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    settings: Any = {  # of type dict[<every setting's name>, Any], says matplotlib
        "svg.fonttype": "none",  # letters stay letters
        "svg.hashsalt": figure.name,  # the same figure is the same file
        "font.size": 9,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    names = {line.label for panel in figure.panels for line in panel.lines}
    names |= {panel.level[0] for panel in figure.panels if panel.level}
    per_row = max(1, int(PANEL_INCHES[0] * columns * 13 // (max(map(len, names), default=0) + 6)))
    height = PANEL_INCHES[1] * rows + 0.2 * -(-len(names) // per_row)
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=(PANEL_INCHES[0] * columns, height), layout="constrained")
        grid = canvas.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, figure.panels, strict=False):
            _panel(axes, figure, panel)
        for axes in list(grid.flat)[len(figure.panels) :]:
            axes.set_axis_off()
        handles: dict[str, Any] = {}
        for axes in grid.flat:
            handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        if handles:
            across = min(len(handles), per_row)
            canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=across, frameon=False)
        svg, png = io.BytesIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None})
        FigureCanvasAgg(canvas).print_png(png)
    return svg.getvalue().decode(), png.getvalue()


def _panel(axes: Any, figure: Figure, panel: Panel) -> None:
    for i, line in enumerate(panel.lines, start=panel.first):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        # beyond the eight colours the lines are broken, and thinner
        dashes = ("-", "--", ":", "-.")[i // len(COLOURS) % 4]
        if panel.bars:
            width = 0.8 / len(panel.lines)
            places = [x + (i - panel.first - (len(panel.lines) - 1) / 2) * width for x in line.x]
            axes.bar(places, line.y, width, color=style["color"], label=line.label)
            continue
        # of many points some have markers, each line's own ones, so that lines that coincide can be told apart
        every = -(-len(line.x) // MARKED)
        marked = ((i - panel.first) * every // len(panel.lines), every)
        axes.plot(
            line.x, line.y, linestyle=dashes, markersize=3.5, linewidth=1.4, label=line.label, markevery=marked, **style
        )
        if line.low and any(a != b for a, b in zip(line.low, line.high, strict=True)):
            axes.fill_between(line.x, line.low, line.high, color=style["color"], alpha=0.15, linewidth=0)
    if panel.level:
        axes.axhline(panel.level[1], color="#666666", linewidth=1, linestyle=(0, (4, 3)), label=panel.level[0])
    if figure.log_x:
        axes.set_xscale("log")
        shown = _apart(sorted({x for line in panel.lines for x in line.x}))
        axes.set_xticks(shown, [f"{value:.3g}" for value in shown])
        axes.minorticks_off()
    if figure.ticks:
        axes.set_xticks([x for x, _ in figure.ticks], [name for _, name in figure.ticks], rotation=90, fontsize=7)
    axes.set_xlabel(figure.xlabel)
    axes.set_ylabel(figure.ylabel)
    axes.set_title(panel.title, fontsize=9)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _apart(values: Sequence[float]) -> list[float]:
    """Returns those of the rising values whose labels do not touch on a logarithmic axis."""
    least = (values[-1] / values[0]) ** (1 / 8) if values else 1.0
    shown: list[float] = []
    for value in values:
        if not shown or value >= shown[-1] * least:
            shown.append(value)
    return shown


def _described(svg: str, figure: Figure, alone: bool) -> str:
    """Returns the SVG with a title and a description, and with ids of its own, so that several fit on one page."""
    title, description = html.escape(figure.title), html.escape(figure.description)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{figure.name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{figure.name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{figure.name}-\1)", svg)
    labels = f'role="img" aria-labelledby="{figure.name}-t {figure.name}-d"'
    names = f'<title id="{figure.name}-t">{title}</title><desc id="{figure.name}-d">{description}</desc>'
    svg = re.sub(r"<svg ([^>]*)>", lambda match: f"<svg {match[1]} {labels}>{names}", svg, count=1)
    return svg if alone else re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
