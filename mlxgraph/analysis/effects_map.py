"""Results as pictures in letters: what goes down and across, and how much colour each number has.

In: a result.  Out: lines of text for a terminal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxgraph.analysis.effects_text import at_labels, largest, number
from mlxgraph.analysis.inputs import whole_number
from mlxgraph.errors import InputError, UnknownLabelError
from mlxgraph.plot.labels import ARROW, label
from mlxgraph.plot.terminal import (
    Look,
    Square,
    bar_lines,
    heat_lines,
    in_rows,
    legend,
    wrapped,
    written,
)

NARROWEST = 20  # columns
_PARTS = "component"  # of all layers, which are many, where there is no axis of layers
_DOWN = ("position", "layer")  # texts are read in lines, and layers of a map of heads
_ACROSS = ("layer", "head", "neuron")
_TOKEN, _LABEL, _OF_AN_EDGE = 14, 40, 60  # columns


def to_text(
    self: Any,
    width: int = 80,
    *,
    ansi: bool = False,
    rows: str | None = None,
    columns: str | None = None,
    centre: float | None = 0.0,
    limit: float | None = None,
) -> str:
    """A picture in letters, for a terminal: a heat map of two axes, one for each label of those
    before, bars of one axis.

    Positions go down, with their tokens, and layers across.  Cells have their numbers where these
    fit, and shades alone where they do not; a map that is too wide goes on below.

    Args:
        width: of a line, in columns, 20 or more.
        ansi: whether to colour it, in the 256 colours of terminals: red above the centre, blue
            below it.
        rows, columns: the axes that go down and across, where others than the usual ones.
        centre, limit: the number without colour, and how far from it the scale reaches on either
            side; `centre=None` for a scale from the smallest number to the largest.
    Returns: lines of text: what it is, the picture, the scale, the largest cell.
    Raises: InputError, UnknownLabelError for an axis.

    Example:
        >>> e = mg.Effects([[0.0, 1.0], [2.0, 4.5]], {"layer": [3, 4], "position": range(2)})
        >>> print(e.to_text())
        effect
                  layer
        position      3      4
        0          0.00 ▒ 2.00
        1        ░ 1.00 █ 4.50
        scale: 0.00 ░▒▓█ 4.50
        largest 4.5 at layer=4, position=1
    """
    look = look_of(width, ansi)
    for axis in (rows, columns):
        if axis is not None and axis not in self.dims:
            raise UnknownLabelError("axis", axis, self.dims)
    head, numbers = wrapped(_heading(self), look), np.asarray(self)
    if not self.dims:
        return f"{head}: {number(float(numbers))}"
    if len(self.dims) == 1:
        (axis,) = self.dims
        names = [
            name if isinstance(of, str) else f"{axis} {name}"
            for name, of in zip(_names(self, axis), self.axes[axis], strict=True)
        ]
        return "\n".join([head, *bar_lines(numbers, names, look)])
    down, across = _chosen(self, rows, columns)
    before = [axis for axis in self.dims if axis not in (down, across)]
    order = [self.dims.index(axis) for axis in (*before, down, across)]
    stack = numbers.transpose(order).reshape(-1, *(len(self.axes[a]) for a in (down, across)))
    amounts, (low, middle, high) = amounts_of(stack, centre, limit)
    texts, rows_each = in_rows(stack), stack.shape[1]
    lines = [head]
    for k in range(len(stack)):
        at = np.unravel_index(k, [len(self.axes[axis]) for axis in before]) if before else ()
        said = {axis: self.axes[axis][n] for axis, n in zip(before, at, strict=True)}
        lines += ["", at_labels(said)] if said else []
        own = texts[k * rows_each : (k + 1) * rows_each]
        named = _names(self, down), _names(self, across)
        lines += heat_lines(Square(own, amounts[k], *named, across, down), look)
    lines += [legend(low, high, amounts, look, middle)]
    return "\n".join([*lines, wrapped(largest(self), look)])


def look_of(width: Any, ansi: Any) -> Look:
    """How a text is to look.  Raises: InputError."""
    found = whole_number(width, "width")
    if found < NARROWEST:
        raise InputError(
            f"width={found} is too narrow for a picture.\n  Write {NARROWEST} or more; 80 is usual."
        )
    return Look(found, bool(ansi))


def _heading(e: Any) -> str:
    title = e.attrs.get("title") or e.attrs.get("component")
    name = f"{e.name} ({e.unit})" if e.unit else str(e.name)
    at = at_labels(e.attrs.get("at", {}))
    return (f"{title}: {name}" if title else name) + (f" at {at}" if at else "")


def _names(e: Any, axis: str) -> list[str]:
    """What is written along an axis: its labels, positions with their tokens."""
    labels = [
        label(one, _OF_AN_EDGE if ARROW in one else _LABEL) if isinstance(one, str) else str(one)
        for one in e.axes[axis]
    ]
    beside = [
        of
        for name, (along, of) in e.coords.items()
        if along == axis and name == "token" and all(isinstance(one, str) for one in of)
    ]
    if not beside:
        return labels
    wide = max(map(len, labels))
    return [f"{n:>{wide}} {label(t, _TOKEN)}" for n, t in zip(labels, beside[0], strict=True)]


def _chosen(e: Any, rows: str | None, columns: str | None) -> tuple[str, str]:
    """The axes that go down and across."""
    free = [axis for axis in e.dims if axis not in (rows, columns)]
    if rows is None:
        down = _DOWN if "layer" in e.dims else (_PARTS, *_DOWN)
        rows = next((axis for axis in down if axis in free), free[-2:][0])
        free.remove(rows)
    if columns is None:
        columns = next((axis for axis in _ACROSS if axis in free), free[-1])
    if rows == columns:
        raise InputError(f"{rows!r} cannot be both the rows and the columns.\n  Name two axes.")
    return rows, columns


def amounts_of(
    numbers: Any, centre: float | None, limit: float | None
) -> tuple[Any, tuple[str, str, str]]:
    """How much colour each number has, from -1 to 1, and the numbers at -1, 0 and 1."""
    numbers = np.asarray(numbers, dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    if centre is None:
        middle = float(finite.min(initial=np.inf)) if finite.size else 0.0
        reach = (float(finite.max()) if finite.size else 1.0) - middle
    else:
        middle, reach = float(centre), float(np.abs(finite - centre).max(initial=0.0))
    reach = float(limit) if limit is not None else reach
    if not reach > 0:
        reach = 1.0
    ends = written([middle - reach, middle, middle + reach])
    amounts = np.clip((numbers - middle) / reach, -1, 1)
    return amounts, (ends[0], ends[1], ends[2])
