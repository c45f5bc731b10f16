"""Results in words: the line that a shell shows, and a notebook's table.

In: a result.  Out: text, HTML.
Never: more than fits on a page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from mlxgraph.analysis.effects_top import CELL

_MOST_ROWS, _MOST_COLUMNS, _MOST_TABLES = 16, 16, 4
_MOST_LINES = 40  # of a list of cells
_WIDEST = 24  # characters of a text in the line
_RED, _BLUE = "214,96,77", "67,147,195"
_CELL = "padding:1px 6px;text-align:right"
_GAP = "<td>…</td>"


def line(e: Any) -> str:
    """One line: what it is, its axes with their sizes, the largest cell and where it is."""
    sizes = " × ".join(f"{axis} {len(of)}" for axis, of in e.axes.items())
    head = f"{type(e).__name__} {e.name}{_unit(e)}: "
    numbers = np.asarray(e)
    at = at_labels(e.attrs.get("at", {}))
    if not e.dims:
        return f"{head}{number(float(e))}{at and f' ({at})'}"
    if np.isnan(numbers).all():
        return f"{head}{sizes}{at and f' at {at}'}, {largest(e)}"
    if e.dims == (CELL,):
        return "\n".join([f"{head}{sizes}{at and f' ({at})'}", *_listed(e, numbers)])
    return f"{head}{sizes}{at and f' ({at})'}, {largest(e)}"


def largest(e: Any) -> str:
    """The largest cell and where it is, and how many cells hold no number."""
    missing = int(np.isnan(np.asarray(e)).sum())
    if missing == np.asarray(e).size:
        return "all NaN"
    best = e.argmax()
    for name, (axis, of) in e.coords.items():
        best[name] = of[e.axes[axis].index(best[axis])]
    said = f"largest {number(e.max())} at {at_labels(best)}"
    return f"{said}, {missing} NaN" if missing else said


def _listed(e: Any, numbers: Any) -> list[str]:
    """A line for each cell: what it is, and its number."""
    shown, rest = e.axes[CELL][:_MOST_LINES], len(numbers) - _MOST_LINES
    wide, digits = max(map(len, shown)), [number(float(value)) for value in numbers]
    lines = [f"  {name:<{wide}}  {n:>8}" for name, n in zip(shown, digits, strict=False)]
    return lines + ([f"  ... and {rest} more"] if rest > 0 else [])


def number(value: float) -> str:
    """Three digits that say something."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value}"
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def _unit(e: Any) -> str:
    return f" ({e.unit})" if e.unit else ""


def at_labels(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(label)}" for name, label in labels.items())


def _short(label: Any) -> str:
    shown = repr(label)
    return shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 4]}...{shown[-1]}"


# -- a notebook's table ----------------------------------------------------------------------------


def table(e: Any) -> str:
    """A small table: the last two axes down and across, one for each label of those before."""
    caption = f"<p>{escape(line(e).splitlines()[0])}</p>"
    if not e.dims:
        return caption
    numbers = np.asarray(e)
    finite = np.abs(numbers[np.isfinite(numbers)])
    limit = float(finite.max(initial=0.0)) or 1.0
    if len(e.dims) == 1:
        return caption + _grid(e, e.dims[0], None, numbers[:, None], limit, "")
    *before, down, across = e.dims
    stack = numbers.reshape(-1, *numbers.shape[-2:])
    sizes = numbers.shape[:-2]
    shown = []
    for k, cells in enumerate(stack[:_MOST_TABLES]):
        at = np.unravel_index(k, sizes) if before else ()
        said = {name: e.axes[name][n] for name, n in zip(before, at, strict=True)}
        shown.append(_grid(e, down, across, cells, limit, at_labels(said)))
    rest = len(stack) - len(shown)
    more = f"<p>… and {rest} more: e.sel({before[-1]}=...)</p>" if rest else ""
    return caption + "".join(shown) + more


def _grid(e: Any, down: str, across: str | None, cells: Any, limit: float, title: str) -> str:
    rows, columns = _kept(cells.shape[0], _MOST_ROWS), _kept(cells.shape[1], _MOST_COLUMNS)
    named = [name for name, (axis, _) in e.coords.items() if axis == down]
    heads = _heads(e, across, columns, [down, *named])
    lines = []
    for k in rows:
        if k is None:
            lines.append(f"<tr>{_GAP * (1 + len(named) + len(columns))}</tr>")
            continue
        names = [_label(e.axes[down][k]), *(_label(e.coords[name][1][k]) for name in named)]
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in names)
        body = "".join(_GAP if n is None else _cell(cells[k, n], limit) for n in columns)
        lines.append(f"<tr>{head}{body}</tr>")
    title = f"<p><b>{escape(title)}</b></p>" if title else ""
    return f"{title}<table><thead>{heads}</thead><tbody>{''.join(lines)}</tbody></table>"


def _heads(e: Any, across: str | None, columns: list[int | None], corner: list[str]) -> str:
    """The labels along the top: those of the axis, then those of its coords, a line each."""
    if across is None:
        said = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in corner)
        return f"<tr>{said}<th style='{_CELL}'>{escape(e.name + _unit(e))}</th></tr>"
    above = {across: e.axes[across]}
    above |= {name: of for name, (axis, of) in e.coords.items() if axis == across}
    lines = []
    for k, (name, of) in enumerate(above.items()):
        said = " / ".join([*corner, name]) if not k else name
        first = f"<th colspan='{len(corner)}' style='text-align:left'>{escape(said)}</th>"
        rest = "".join(
            _GAP if n is None else f"<th style='{_CELL}'>{_label(of[n])}</th>" for n in columns
        )
        lines.append(f"<tr>{first}{rest}</tr>")
    return "".join(lines)


def _kept(size: int, most: int) -> list[int | None]:
    """Which rows or columns are shown: the first and the last, and None for those between."""
    if size <= most:
        return list(range(size))
    half = most // 2
    return [*range(half), None, *range(size - half, size)]


def _label(label: Any) -> str:
    return f"<code>{escape(repr(label))}</code>" if isinstance(label, str) else escape(str(label))


def _cell(value: float, limit: float) -> str:
    strength = 0.75 * min(abs(value) / limit, 1.0) if math.isfinite(value) else 0.0
    colour = _RED if value > 0 else _BLUE
    back = f";background:rgba({colour},{strength:.2f})" if strength >= 0.005 else ""
    return f"<td style='{_CELL}{back}'>{number(float(value))}</td>"
