"""The report's page: one HTML file with everything in it, for a browser without a network, for a telephone, and for the ear."""

from __future__ import annotations

import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light; --line: #d0d4da; --soft: #1a2d500a; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1d21; background: #fff; margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 2.5rem 0 .5rem; border-top: 3px solid #1a1d21; padding-top: 1rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p { max-width: 45rem; margin: .5rem 0; }
nav ul { padding-left: 1.2rem; }
a { color: #0b57a4; }
.facts { color: #444b54; }
.short { font-size: 2rem; font-weight: 800; line-height: 1.15; color: #8a1c00; border: 4px solid #8a1c00; padding: .8rem 1rem;
  margin: 1rem 0; max-width: none; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1rem; margin: 1rem 0; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; min-width: 0; }
figure.wide { grid-column: 1 / -1; }
figure div { overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; margin: 0 auto; }
figure.wide svg { min-width: 46rem; }
figcaption { font-size: .9rem; color: #444b54; padding: .25rem .5rem; }
.table, figure.wide div { background: linear-gradient(to right, #fff 40%, #fff0) left / 3rem 100% local no-repeat,
  linear-gradient(to left, #fff 40%, #fff0) right / 3rem 100% local no-repeat,
  linear-gradient(to right, #0004, #0000) left / 1rem 100% scroll no-repeat,
  linear-gradient(to left, #0004, #0000) right / 1rem 100% scroll no-repeat; } /* a shadow at the edge beyond which there is more */
.table { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; }
.table.tall { max-height: 70vh; overflow-y: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; font-weight: 600; padding: .5rem; position: sticky; left: 0; }
th, td { padding: .3rem .6rem; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { background: var(--soft); vertical-align: bottom; white-space: normal; min-width: 5rem; }
tbody th, thead th:first-child { text-align: left; font-weight: 500; }
/* cells are translucent, so that a table's shadow shows through */
.inside { background: #00a03226; } .near { background: #ffcf1340; } .outside { background: #ff674b40; font-weight: 700; }
.missing { background: #4155731a; color: #5b636d; font-style: italic; }
details > summary { cursor: pointer; padding: .5rem 0; color: #0b57a4; }
@media print { .table { overflow: visible; } }
"""


def page(title: str, parts: Sequence[tuple[str, str, str]]) -> str:
    """Returns the whole document; `parts` are (anchor, heading, body), the body as HTML."""
    links = "".join(f'<li><a href="#{anchor}">{html.escape(name)}</a></li>' for anchor, name, _ in parts)
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(parts) > 1 else ""
    sections = [
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{html.escape(name)}</h2>{text}</section>'
        for anchor, name, text in parts
    ]
    body = "".join(sections) if len(parts) > 1 else parts[0][2]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{html.escape(title)}</h1>\n{contents}\n{body}\n</main>\n</body>\n</html>\n"
    )


def figure(svg: str, caption: str, wide: bool) -> str:
    """Returns a figure with its caption; the SVG brings its own description. A wide one scrolls on a narrow screen."""
    kind = ' class="wide"' if wide else ""
    focus = ' tabindex="0"' if wide else ""
    return f"<figure{kind}><div{focus}>{svg}</div><figcaption>{html.escape(caption)}</figcaption></figure>"


def shortened(scale: float) -> str:
    """Returns the warning that every budget was shortened, in large letters."""
    return (
        f'<p class="short" role="note">SHORTENED: every training and retraining ran {scale:g} of its epochs. '
        "A quick look, no reproduction.</p>"
    )
