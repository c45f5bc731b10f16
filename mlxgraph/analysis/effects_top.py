"""The cells of a result that matter most: few of many neurons, heads or positions.

In: a result.  Out: one with a single axis of cells, largest first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxgraph.analysis.inputs import whole_number
from mlxgraph.errors import InputError

CELL = "cell"  # the axis


def top_cells(e: Any, k: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Values, axes and coords of the k cells farthest from nought; NaN aside."""
    k = whole_number(k, "k")
    numbers = np.asarray(e)
    if k < 1:
        raise InputError(f"k={k} are no cells.\n  Write a number from 1 on, such as e.top(10).")
    if not e.dims:
        raise InputError("this result is a single number, float(e): there are no cells to choose.")
    flat = numbers.reshape(-1)
    known = np.flatnonzero(~np.isnan(flat))
    order = known[np.argsort(-np.abs(flat[known]), kind="stable")][:k]
    if not order.size:
        raise InputError("all cells are NaN: none of them is the largest.")
    places = np.unravel_index(order, numbers.shape)
    along = {
        axis: [labels[n] for n in at]
        for (axis, labels), at in zip(e.axes.items(), places, strict=True)
    }
    named = [_named(e, at) for at in zip(*(at.tolist() for at in places), strict=True)]
    coords = {axis: (CELL, labels) for axis, labels in along.items()}
    return flat[order], {CELL: named}, coords


def _named(e: Any, at: tuple[int, ...]) -> str:
    """A cell in words: `layer 3, neuron 17`; a text label stands for itself."""
    said = []
    for (axis, labels), n in zip(e.axes.items(), at, strict=True):
        label = labels[n]
        beside = [of[n] for name, (along, of) in e.coords.items() if along == axis == "position"]
        text = label if isinstance(label, str) else f"{axis} {label}"
        said.append(f"{text} {beside[0]!r}" if beside else text)
    return ", ".join(said)
