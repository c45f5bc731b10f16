"""What fits where: texts measured in the figure that they are for, in points.

In: a figure, and texts.  Out: widths, strides, texts that fit.
Never: guesses; a font, a screen and a language differ from each other.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mlxgraph.plot.labels import ARROW, text_options

LINE = 1.3  # the height of a line of text, in its size
SMALLEST, COMFORTABLE, LARGEST = 6.0, 7.5, 13.0  # points
BREAKS = "_-. "  # signs after which a name may stand in two lines
_FEWEST = 4  # characters that a label may be cut to
_STRIDES = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000)


class Words(NamedTuple):
    """Texts as they fit a grid's cells, row by row, and their size in points."""

    texts: list[list[str]]
    size: float


def cell(figure: Any, axes: Any, rows: int, columns: int) -> tuple[float, float]:
    """Width and height of a grid's cells in points, with the figure laid out as it is now."""
    figure.get_layout_engine().execute(figure)
    box = axes.get_window_extent()
    points = 72 / figure.dpi
    return points * box.width / columns, points * box.height / rows


def widths(figure: Any, texts: Iterable[str], size: float, bold: bool = False) -> dict[str, float]:
    """How wide texts are in a font size, in points: each line by line, the widest."""
    probe = figure.text(0, 0, "", fontsize=size, fontweight="bold" if bold else "normal")
    probe.update(text_options())
    probe.set_in_layout(False)
    found = {}
    for text in dict.fromkeys(texts):
        probe.set_text(text)
        found[text] = 72 / figure.dpi * probe.get_window_extent().width
    probe.remove()
    return found


def broken(figure: Any, text: str, size: float) -> str:
    """A text in lines that the figure is wide enough for, broken between words."""
    widest = 72 * 0.96 * figure.get_size_inches()[0]
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and widths(figure, [longer], size)[longer] > widest:
            lines.append(word)
        else:
            lines[-1:] = [longer]
    return "\n".join(lines)


def in_two(text: str, wide: float, each: float) -> str:
    """A text in two lines of which each fits, or as it is.  Args: each: how wide all of it is."""
    if each <= wide:
        return text
    for lines in (halved(text), _in_the_middle(text)):
        longest = max(len(line) for line in lines.split("\n"))
        if (longest / len(text) + 0.06) * each <= wide:  # letters are not all as wide
            return lines
    return text


def halved(name: str) -> str:
    """A name in two lines, broken after a sign near its middle, or in the middle; that of an edge
    before its arrow."""
    start, arrow, end = name.partition(ARROW)
    if arrow and start and end:
        return f"{start}\n{arrow.strip()} {end}"
    middle = len(name) / 2
    after = [k + 1 for k, sign in enumerate(name) if sign in BREAKS]
    near = min(after, key=lambda k: abs(k - middle), default=0)
    if abs(near - middle) > 0.15 * len(name):
        return _in_the_middle(name)
    return f"{name[:near]}\n{name[near:]}"


def _in_the_middle(name: str) -> str:
    at = math.ceil(0.52 * len(name))
    return f"{name[:at]}\n{name[at:]}"


def stride(room: float, needed: float) -> int:
    """Which labels stand along an axis, every so many: those that have the room they need."""
    least = math.ceil(needed / max(room, 1e-9))
    return next((step for step in _STRIDES if step >= least), least)


def fitted(
    figure: Any, texts: Sequence[Sequence[str]], bold: Sequence[Sequence[bool]], room: Any
) -> Words | None:
    """Texts for a grid's cells, the longest of them cut, in one size that nearly all fit in.

    Args: bold: which are written bold; room: width and height of a cell, points.
    Returns: None where cells are too small to read anything in.
    """
    high = min(room[1] / LINE, LARGEST)
    wide = room[0] - min(4.0, 0.1 * room[0])
    if high < SMALLEST:
        return None
    sizes = _sizes(figure, texts, bold)
    size = min(high, max(COMFORTABLE, wide / max(sizes.values())))
    while True:
        short = {one: _cut(figure, *one, size, wide, each) for one, each in sizes.items()}
        if all(short.values()):
            break
        if size <= SMALLEST:
            return None
        size = max(SMALLEST, 0.9 * size)
    rows = [
        [short[one] or "" for one in zip(row, heavy, strict=True)]
        for row, heavy in zip(texts, bold, strict=True)
    ]
    return Words(rows, size)


def _sizes(figure: Any, texts: Any, bold: Any) -> dict[tuple[str, bool], float]:
    """How wide each text is, in its size."""
    found = {}
    for heavy in (False, True):
        chosen = [
            text
            for row, marks in zip(texts, bold, strict=True)
            for text, mark in zip(row, marks, strict=True)
            if mark == heavy
        ]
        for text, width in widths(figure, chosen, 10, heavy).items():
            found[text, heavy] = width / 10
    return found


def _cut(figure: Any, text: str, bold: bool, size: float, wide: float, each: float) -> str | None:
    """A text cut until it fits; None where too little would be left of it.

    Args: each: its width, in its size.
    """
    if size * each <= wide:
        return text
    shorter = [text[:kept] + "…" for kept in range(len(text) - 1, _FEWEST - 2, -1)]
    at = bisect_left(shorter, -wide, key=lambda one: -widths(figure, [one], size, bold)[one])
    return shorter[at] if at < len(shorter) else None
