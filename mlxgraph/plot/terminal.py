"""Pictures in letters: heat maps, bars and tables for a terminal.

In: numbers, labels, a width in columns.  Out: text, with colours of a terminal if wanted.
Never: a line wider than asked for, as long as one label and one cell fit in it; asks what terminal
there is.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlxgraph.plot.labels import ARROW, columns, cut

STEPS = 4  # of a shade, on either side of the centre
ABOVE, BELOW = " ░▒▓█", " ·-=≡"  # without colours: from the centre up, and down
UNKNOWN = "?"
_RED = ((255, 16), (224, 16), (217, 16), (209, 16), (160, 231))  # ground and ink, of 256 colours
_BLUE = ((255, 16), (189, 16), (153, 16), (75, 16), (26, 231))
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LABEL = 24  # columns that labels at the left have at most
_LEAST = 8  # columns of a bar


class Look(NamedTuple):
    """How a text is to look.  Attributes: width: in columns; ansi: whether it has colours."""

    width: int = 80
    ansi: bool = False


class Column(NamedTuple):
    """One column of a table: its head, and a cell for each row, all of one width."""

    head: str
    cells: tuple[str, ...]
    width: int


# -- letters ---------------------------------------------------------------------------------------


def padded(text: str, width: int, right: bool = False) -> str:
    """A text of just so many columns, cut if need be."""
    text = cut(text, width)
    space = " " * (width - columns(text))
    return space + text if right else text + space


def shade(amount: float) -> int:
    """The step of a shade, from -STEPS to STEPS, of an amount from -1 to 1."""
    return max(-STEPS, min(STEPS, round(STEPS * amount)))


def inked(text: str, amount: float, look: Look, bold: bool = False) -> str:
    """A text on a ground of the amount's colour, if there are colours."""
    if not look.ansi or math.isnan(amount):
        return text
    step = shade(amount)
    ground, ink = (_RED if step >= 0 else _BLUE)[abs(step)]
    return f"\x1b[{'1;' if bold else ''}38;5;{ink};48;5;{ground}m{text}\x1b[0m"


def sign(amount: float) -> str:
    """The letter of an amount."""
    if math.isnan(amount):
        return UNKNOWN
    step = shade(amount)
    return (ABOVE if step >= 0 else BELOW)[abs(step)]


def in_rows(values: Any) -> list[list[str]]:
    """As `written`, of the numbers in each row."""
    numbers = np.asarray(values)
    texts = written(numbers)
    wide = numbers.shape[-1]
    return [texts[start : start + wide] for start in range(0, len(texts), wide)]


def written(values: Any) -> list[str]:
    """Numbers in as many digits as tell the largest of them, all alike."""
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    finite = np.abs(numbers[np.isfinite(numbers)])
    most = float(finite.max(initial=0.0))
    if most and not 1e-3 <= most < 1e6:
        form = "{:.1e}"
    elif bool(np.all(finite == np.round(finite))):
        form = "{:.0f}"
    else:
        form = f"{{:.{max(0, 2 - math.floor(math.log10(most)))}f}}"
    zero = form.format(0.0)
    found = [form.format(number) if math.isfinite(number) else _odd(number) for number in numbers]
    return [zero if text == f"-{zero}" else text for text in found]


def _odd(number: float) -> str:
    return "NaN" if math.isnan(number) else "inf" if number > 0 else "-inf"


def wrapped(text: str, look: Look) -> str:
    """A sentence in lines that fit."""
    return textwrap.fill(text, look.width)


# -- tables ----------------------------------------------------------------------------------------


def table(
    corner: str,
    left: Sequence[str],
    given: Sequence[Column],
    look: Look,
    gap: int = 1,
    above: str = "",
) -> list[str]:
    """A table, in as many parts one below the other as its columns need.

    Args: corner: what stands above the labels; above: what stands above all columns.
    """
    wide = min(max(map(columns, [*left, corner])), max(_LABEL, look.width // 3), look.width)
    lines: list[str] = []
    todo = list(given)
    while todo or not lines:
        part: list[Column] = []
        room = look.width - wide
        while todo and (not part or todo[0].width + gap <= room):
            room -= todo[0].width + gap
            part.append(todo.pop(0))
        lines += [""] if lines else []
        lines += [_line(padded("", wide), [above], gap)] if above else []
        heads = [padded(column.head, column.width, True) for column in part]
        lines.append(_line(padded(corner, wide), heads, gap))
        for k, name in enumerate(left):
            lines.append(_line(padded(name, wide), [column.cells[k] for column in part], gap))
    return lines


def _line(name: str, cells: list[str], gap: int) -> str:
    return (name + "".join(" " * gap + cell for cell in cells)).rstrip(" ")


# -- heat maps -------------------------------------------------------------------------------------


class Square(NamedTuple):
    """What a heat map shows.

    Attributes:
        texts: the numbers, a list for each row.
        amounts: of colour, from -1 to 1, of the same shape; NaN where nothing is known.
        rows, columns: their labels; `across`, `down`: what they are.
    """

    texts: Sequence[Sequence[str]]
    amounts: Any
    rows: Sequence[str]
    columns: Sequence[str]
    across: str
    down: str


def heat_lines(square: Square, look: Look) -> list[str]:
    """A heat map: numbers with shades where they fit, else shades alone."""
    longest = max(len(text) for row in square.texts for text in row)
    digits = max(longest, max(map(columns, square.columns)) - 2)
    room = look.width - max(map(columns, [*square.rows, square.down]))
    for apart in (1, 0):
        if len(square.columns) * (digits + apart + 2) <= room:
            return _with_numbers(square, digits, apart, look)
    if _are_short(square.columns):
        return _shades(square, 2 if 2 * len(square.columns) < room else 1, look)
    return _with_numbers(square, digits, 1, look)


def _are_short(labels: Sequence[str]) -> bool:
    """Whether every few of the labels, above cells of one or two letters, say the others."""
    return len(labels) > 4 and all(label.isdigit() for label in labels)


def _with_numbers(square: Square, digits: int, apart: int, look: Look) -> list[str]:
    """Args: digits: of a number; apart: columns between a shade and its number."""
    given = []
    for k, name in enumerate(square.columns):
        amounts = np.asarray(square.amounts)[:, k].tolist()
        cells = tuple(
            _cell(f"{row[k]:>{digits}}", amount, apart, look)
            for row, amount in zip(square.texts, amounts, strict=True)
        )
        head = name + " " * apart if look.ansi else name  # above its number
        given.append(Column(head, cells, digits + apart + 1))
    return table(square.down, square.rows, given, look, above=square.across)


def _cell(text: str, amount: float, apart: int, look: Look) -> str:
    if look.ansi:
        return inked(f" {text}{' ' * apart}", amount, look)
    return (" " if math.isnan(amount) else sign(amount)) + " " * apart + text


def _shades(square: Square, wide: int, look: Look) -> list[str]:
    """Cells of one or two letters; of their labels as many as there is room for."""
    label = min(max(map(columns, [*square.rows, square.down])), max(_LABEL, look.width // 3))
    fit = max(1, (look.width - label - 1) // wide)
    lines: list[str] = []
    amounts = np.asarray(square.amounts)
    for start in range(0, len(square.columns), fit):
        names = list(square.columns[start : start + fit])
        lines += [""] if lines else []
        lines.append(_line(padded("", label), [square.across], 1))
        lines.append(_line(padded(square.down, label), [_ruler(names, wide)], 1))
        for k, name in enumerate(square.rows):
            some = amounts[k, start : start + fit].tolist()
            cells = "".join(
                inked(" " * wide, one, look) if look.ansi and one == one else sign(one) * wide
                for one in some
            )
            lines.append(_line(padded(name, label), [cells], 1))
    return lines


def _ruler(names: list[str], wide: int) -> str:
    """Every few labels, each above its cell."""
    longest = max(map(len, names)) + 1
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**6) if n * wide >= longest)
    kept = [k for k, name in enumerate(names) if int(name) % every == 0] or [0]
    line = ""
    for k in kept:
        line = line.ljust(k * wide) + names[k]
    return line


def legend(low: str, high: str, amounts: Any, look: Look, centre: str = "0") -> str:
    """What the shades stand for.  Args: low, high, centre: numbers at the ends and the middle."""
    known = np.asarray(amounts)[~np.isnan(amounts)]
    shown = [centre]
    if known.size and known.min() < -0.5 / STEPS:
        shown = [low, _scale(range(-STEPS, 0), look), centre]
    shown += [_scale(range(1, STEPS + 1), look), high]
    unknown = f", {UNKNOWN} not known" if known.size < np.size(amounts) else ""
    return f"scale: {' '.join(shown)}{unknown}"


def _scale(steps: range, look: Look) -> str:
    amounts = [step / STEPS for step in steps]
    if look.ansi:
        return "".join(inked("  ", amount, look) for amount in amounts)
    return "".join(map(sign, amounts))


# -- bars ------------------------------------------------------------------------------------------


def bar_lines(numbers: Any, labels: Sequence[str], look: Look) -> list[str]:
    """A line for each number: its label, the number, a bar from zero to it."""
    numbers = np.asarray(numbers, dtype=np.float64).reshape(-1)
    texts = written(numbers)
    digits = max(map(len, texts))
    share = 2 / 3 if any(ARROW in label for label in labels) else 1 / 2
    wide = min(max(map(columns, labels)), max(_LABEL, int(share * look.width)))
    room = look.width - wide - digits - 3
    finite = np.where(np.isfinite(numbers), numbers, 0.0)
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    each = (room - 2) / ((high - low) or 1.0)
    left = math.ceil(-low * each)
    lines = []
    for label, text, number in zip(labels, texts, finite.tolist(), strict=True):
        bar = _bar(number, each, left) if room >= _LEAST else ""
        lines.append(f"{padded(label, wide)} {text:>{digits}}  {bar}".rstrip(" "))
    return lines


def _bar(number: float, each: float, left: int) -> str:
    if number < 0:
        halves = round(-2 * number * each)
        bar = ("▐" if halves % 2 else "") + "█" * (halves // 2)
        return bar.rjust(left)
    whole, eighths = divmod(round(8 * number * each), 8)
    return " " * left + "█" * whole + (_EIGHTHS[eighths] if eighths else "")
