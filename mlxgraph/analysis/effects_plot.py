"""Results as pictures: which axis goes where, and what is written along it.

In: a result.  Out: matplotlib figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxgraph.analysis.effects_top import CELL
from mlxgraph.errors import InputError, UnknownLabelError, UnknownNameError
from mlxgraph.plot.curves import bars, lines
from mlxgraph.plot.heat import heatmap

KINDS = ("heatmap", "bars", "lines")
_DOWN = ("layer",)  # axes that go from below to above where they can
_ACROSS = ("position",)
EDGE = "edge"
MOST_BARS = 500  # in one picture: more are thinner than what is between them
_APART = ("pair", "component", "variant")  # axes whose labels are panels where they can be


def picture(
    e: Any,
    kind: str | None,
    rows: str | None,
    columns: str | None,
    centre: float | None,
    limit: float | None,
    title: str | None,
    **drawn: Any,
) -> Any:
    """A heat map of two axes or three, bars or a line of one.  Args: drawn: figsize, cmap."""
    if kind is not None and kind not in KINDS:
        raise UnknownNameError("kind of picture", str(kind), KINDS)
    for axis in (rows, columns):
        if axis is not None and axis not in e.dims:
            raise UnknownLabelError("axis", axis, e.dims)
    kind = kind or _usual(e)
    drawn["title"] = _title(e) if title is None else title
    if kind == "heatmap":
        return _heatmap(e, rows, columns, centre=centre, limit=limit, **drawn)
    if limit is not None or centre != 0.0:
        raise InputError(
            f"centre= and limit= are of a heat map's colours, and this picture is of {kind}.\n"
            "  Leave them out; figure.axes[0].set_ylim(low, high) sets the axis."
        )
    if kind == "bars":
        return _bars(e, rows or columns, drawn)
    return _lines(e, rows, columns, drawn)


def _usual(e: Any) -> str:
    """Bars of one axis, a line where it is numbers that lie anywhere; a heat map of more."""
    if len(e.dims) != 1:
        return "heatmap"
    (labels,) = e.axes.values()
    if len(labels) > MOST_BARS:
        return "lines"
    measured = e.dims == ("strength",) or any(isinstance(label, float) for label in labels)
    return "lines" if measured and not any(isinstance(one, str) for one in labels) else "bars"


def _title(e: Any) -> str:
    at = e.attrs.get("at", {})
    title = e.attrs.get("title")
    said = [f"{_words(name)} {label}" for name, label in at.items()]
    return ", ".join([str(title), *said] if title else said)


def _says(e: Any) -> str:
    name = _words(str(e.name))
    return f"{name} ({e.unit})" if e.unit else name


def _words(name: str) -> str:
    """A name of the code's as it is read: `sender_layer` is a sender layer."""
    return name.replace("logit_diff", "logit difference").replace("_", " ").strip()


def _along(e: Any, axis: str) -> tuple[str, tuple[Any, ...]]:
    """What is written along an axis: its tokens, or other texts that it has, else its labels."""
    if axis in (CELL, EDGE):  # their coords say a part of what their labels do
        return axis, e.axes[axis]
    texts = [
        (name, labels)
        for name, (of, labels) in e.coords.items()
        if of == axis and all(isinstance(label, str) for label in labels)
    ]
    name, labels = min(texts, key=lambda one: one[0] != "token", default=(axis, e.axes[axis]))
    return _words(name), labels


def _heatmap(e: Any, rows: str | None, columns: str | None, **drawn: Any) -> Any:
    if len(e.dims) not in (2, 3):
        raise InputError(
            f"a heat map is of two axes, or of three as small multiples, not of"
            f" {len(e.dims)} ({', '.join(e.dims) or 'none'}).\n  {_fewer(e)}"
        )
    free = [axis for axis in e.dims if axis not in (rows, columns)]
    apart = None
    if len(e.dims) == 3:
        others = [axis for axis in free if axis not in (*_DOWN, *_ACROSS)]
        apart = next((axis for axis in _APART if axis in free), (others or free)[0])
        free.remove(apart)
    if rows is None:
        rows = next((axis for axis in _DOWN if axis in free), free[0])
        free.remove(rows)
    columns = columns or free[0]
    if rows == columns:
        raise InputError(f"{rows!r} cannot be both the rows and the columns.\n  Name two axes.")
    order = [e.dims.index(axis) for axis in (apart, rows, columns) if axis is not None]
    across, down = _along(e, columns), _along(e, rows)
    return heatmap(
        np.asarray(e).transpose(order), down[1], across[1], xlabel=across[0], ylabel=down[0],
        panels=None if apart is None else [_panel(apart, one) for one in _along(e, apart)[1]],
        label=_says(e), **drawn,
    )  # fmt: skip


def _panel(axis: str, label: Any) -> str:
    return label if isinstance(label, str) else f"{_words(axis)} {label}"


def _bars(e: Any, axis: str | None, drawn: dict[str, Any]) -> Any:
    if len(e.dims) != 1:
        raise InputError(
            f"bars are of one axis, not of {len(e.dims)} ({', '.join(e.dims) or 'none'}).\n"
            f"  {_fewer(e)}"
        )
    if e.shape[0] > MOST_BARS:
        raise InputError(
            f"{e.shape[0]} bars are too many for one picture.\n"
            f"  Write kind='lines', or draw some, e.isel({e.dims[0]}=slice(0, {MOST_BARS}))."
        )
    name, labels = _along(e, e.dims[0])
    return bars(np.asarray(e), labels, xlabel=name, ylabel=_says(e), **drawn)


def _lines(e: Any, rows: str | None, columns: str | None, drawn: dict[str, Any]) -> Any:
    """Args: rows: the axis whose labels are lines; columns: the axis that they go along."""
    if len(e.dims) not in (1, 2):
        raise InputError(
            f"lines are of one axis or two, not of {len(e.dims)} ({', '.join(e.dims) or 'none'}).\n"
            f"  {_fewer(e)}"
        )
    if len(e.dims) == 1:
        name, labels = _along(e, e.dims[0])
        return lines(np.asarray(e)[None], labels, xlabel=name, ylabel=_says(e), **drawn)
    if columns is None:
        free = [axis for axis in e.dims if axis != rows]
        columns = "strength" if "strength" in free else free[-1]
    rows = rows or next(axis for axis in e.dims if axis != columns)
    if rows == columns:
        raise InputError(f"{rows!r} cannot be both the lines and what they go along.")
    numbers = np.asarray(e).transpose([e.dims.index(rows), e.dims.index(columns)])
    (across, labels), (of, names) = _along(e, columns), _along(e, rows)
    return lines(numbers, labels, names, xlabel=across, ylabel=_says(e), of=of, **drawn)


def _fewer(e: Any) -> str:
    if not e.dims:
        return "It is a single number: float(e)."
    axis, labels = next(iter(e.axes.items()))
    return f"Take a part, e.sel({axis}={labels[0]!r}), or a mean, e.mean({axis!r})."
