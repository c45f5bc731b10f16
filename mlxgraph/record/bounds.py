"""Bounds: indices that are known are checked on the user's line."""

from __future__ import annotations

from typing import Any, NoReturn

from mlxgraph.errors import BoundsError
from mlxgraph.errors.source_line import here
from mlxgraph.evaluate.bounds import Outside, check_call, check_index
from mlxgraph.mlx_facts.probes import known_range
from mlxgraph.record.handle import is_handle


def check_bounds(index: Any, shape: tuple[int, ...]) -> None:
    """Raise BoundsError where an index leaves the array: numbers, lists and arrays of them."""
    try:
        check_index(index, shape, _look)
    except Outside as outside:
        refuse(outside, str(here()))


def check_taken(op: str, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise BoundsError where a function of MLX that indexes leaves its array."""
    try:
        check_call(op, args, kwargs, _look)
    except Outside as outside:
        refuse(outside, str(here()))


def refuse(outside: Outside, where: str) -> NoReturn:
    """Raise BoundsError for an index that was found to lead outside, at a line of the user's."""
    raise BoundsError(outside.index, outside.axis, outside.size, outside.shape, where) from None


def _look(array: Any) -> tuple[int, int] | None:
    """The smallest and largest of an array from outside; what is recorded is not known yet."""
    return None if is_handle(array) else known_range(array)
