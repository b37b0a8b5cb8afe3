"""A small plot made of text: braille dots, two across and four down per character."""

from __future__ import annotations

from collections.abc import Sequence

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # Unicode's braille patterns, row by row


def plot(values: Sequence[float], width: int = 60, height: int = 8, braille: bool = True) -> list[str]:
    """Returns the lines of a plot of `values` against their index, with both ranges; stars without `braille`."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    across, down = 2 * width, 4 * height
    cells = [[0] * width for _ in range(height)]
    last: int | None = None
    for i in range(across):
        # The value at this column, between its neighbours: the columns stretch over all values.
        at = i / (across - 1) * (len(values) - 1)
        left = min(int(at), max(len(values) - 2, 0))
        right = min(left + 1, len(values) - 1)
        row = round((high - values[left] - (at - left) * (values[right] - values[left])) / span * (down - 1))
        # A steep line is drawn through the rows that it crosses.
        for r in range(min(row, row if last is None else last), max(row, row if last is None else last) + 1):
            cells[r // 4][i // 2] |= DOTS[r % 4][i % 2]
        last = row
    labels = [f"{high:.3g}", *[""] * (height - 2), f"{low:.3g}"]
    margin = max(map(len, labels))
    lines = []
    for label, line in zip(labels, cells, strict=True):
        text = "".join(chr(0x2800 + cell) if braille else "*" if cell else " " for cell in line)
        lines.append(f"{label:>{margin}} {'┤' if braille else '|'}{text.rstrip(chr(0x2800) + ' ')}")
    ticks = f"1{len(values):>{width - 1}}"
    return [*lines, f"{'':{margin}}  {ticks}"]
