"""Reports: the results of studies and runs as one page, tables and figures, the papers' numbers beside ours. No torch."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.plan import PlanError
from pruning.record import runs, writing
from pruning.record.text import read_object
from pruning.study.report import figures, page, plots, reported, tables
from pruning.study.report.rows import Row, Section, sections

__all__ = ["Section", "sections", "write_report"]

FOLDED = 40  # lines, past which a table is folded away on the page


def write_report(paths: Sequence[Path], out: Path, study: str | None = None) -> dict[str, Any]:
    """Returns what was written: {"page", "tables", "figures", "runs", "missing", "notes"}; paths are runs or folders of runs.

    out/index.html holds everything; each table lies beside it as CSV and Markdown, each figure as SVG and PNG, in a folder for
    each study where there are several. Without matplotlib there are tables only.
    """
    found = sections(paths, study)
    numbers = reported.load()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"cannot write {out}: {error.strerror}") from None
    parts: list[tuple[str, str, str]] = []
    told: dict[str, Any] = {
        "page": str(out / "index.html"),
        "tables": [],
        "figures": [],
        "runs": 0,
        "missing": 0,
        "notes": [],
    }
    for index, section in enumerate(found):
        folder = out if len(found) == 1 else out / section.name
        folder.mkdir(exist_ok=True)
        body = _section(section, numbers.get(section.name, []), folder, told)
        parts.append((f"s{index}", section.title, body))
        told["runs"] += sum(row.summary is not None for row in section.rows)
        told["missing"] += sum(row.summary is None for row in section.rows)
    title = found[0].title if len(found) == 1 else "Pruning studies"
    with writing.replacing(out / "index.html") as part:
        part.write_text(page.page(title, parts))
    return told


def _section(section: Section, numbers: list[reported.Reported], folder: Path, told: dict[str, Any]) -> str:
    shown = [tables.matrix(section)]
    if section.best_over:
        shown.append(tables.best_table(section))
    comparison = reported.compare(section, numbers)
    shown += [] if comparison is None else [comparison]
    shown += [tables.results(section), tables.runs_table(section)]
    pieces = [page.shortened(section.scale)] if section.scale != 1 else []
    pieces.append(_facts(section))
    drawn = []
    try:
        for figure in plots.figures(section):
            drawn.append(page.figure(figures.draw(figure, folder), figure.title, wide=len(figure.panels) > 1))
            told["figures"] += [str(folder / f"{figure.name}.{kind}") for kind in ("svg", "png")]
    except PlanError as error:
        pieces.append(f"<p><strong>{html.escape(str(error))}</strong></p>")
        told["notes"].append(str(error))
    pieces.append(f'<div class="figures">{"".join(drawn)}</div>')
    for table in shown:
        text = table.html()
        long = len(table.rows) > FOLDED or table.name == "runs"
        pieces.append(f"<details><summary>{html.escape(table.title)}</summary>{text}</details>" if long else text)
        for kind, content in (("csv", table.csv()), ("md", table.markdown())):
            (folder / f"{table.name}.{kind}").write_text(content)
            told["tables"].append(str(folder / f"{table.name}.{kind}"))
    return "\n".join(pieces)


def _facts(section: Section) -> str:
    done = [row for row in section.rows if row.summary is not None]
    seeds = sorted({row.seed for row in section.rows})
    lines = [str(section.facts[key]) for key in ("summary", "notes") if key in section.facts]
    if cited := [str(section.facts[key]) for key in ("citation", "source") if key in section.facts]:
        lines.append("After " + ", ".join(cited).removeprefix("after ") + ".")
    missing = len(section.rows) - len(done)
    lines.append(
        f"{len(done)} result{'' if len(done) == 1 else 's'}, "
        f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
        + (f"; {missing} of {len(section.rows)} are missing." if missing else "; none is missing.")
    )
    lines.append(_made_with(done))
    return "".join(f'<p class="facts">{html.escape(line)}</p>' for line in lines if line)


def _made_with(rows: Sequence[Row]) -> str:
    """Returns versions, devices and threads of the runs, each value once; runs need not have them."""
    facts: dict[str, set[str]] = {}
    for row in rows:
        path = row.folder / runs.ENV
        record = read_object(path) if path.is_file() else {}
        for key in ("torch", "device", "gpu", "cpu", "backend", "threads", "commit"):
            if record.get(key) is not None:
                value = str(record[key])
                facts.setdefault(key, set()).add(value[:10] if key == "commit" else value)
    return "; ".join(f"{key} {', '.join(sorted(values))}" for key, values in facts.items())
