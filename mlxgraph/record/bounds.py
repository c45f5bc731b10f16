"""Bounds: indices that are known are checked on the user's line."""

from __future__ import annotations

from typing import Any, NoReturn

from mlxgraph.errors import BoundsError, PlainArrayError, StepError
from mlxgraph.errors.source_line import here
from mlxgraph.evaluate.bounds import Outside, Standing, check_call, check_index
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import known_range
from mlxgraph.record.handle import is_handle

_BOUNDS = frozenset({int, type(None)})


def check_bounds(index: Any, shape: tuple[int, ...]) -> None:
    """Raise BoundsError where an index leaves the array: numbers, lists and arrays of them."""
    if _is_inside(index, shape):
        return
    _check_slices(index)
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
    if isinstance(outside, Standing):
        raise StepError(str(outside.shape), where) from None
    raise BoundsError(outside.index, outside.axis, outside.size, outside.shape, where) from None


def _is_inside(index: Any, shape: tuple[int, ...]) -> bool:
    """Whether an index is of whole numbers and plain slices, as most are, and stays inside."""
    axis, axes = 0, len(shape)
    for part in index if type(index) is tuple else (index,):
        if type(part) is int:
            if axis >= axes or not -shape[axis] <= part < shape[axis]:
                return False
        elif type(part) is not slice or part.step is not None:
            return False
        elif type(part.start) not in _BOUNDS or type(part.stop) not in _BOUNDS:
            return False
        axis += 1
    return axis <= axes


def _check_slices(index: Any) -> None:
    """Raise PlainArrayError for a slice with an array for a bound."""
    for part in index if type(index) is tuple else (index,):
        if type(part) is slice:
            for bound in (part.start, part.stop, part.step):
                if isinstance(bound, ARRAY):
                    raise PlainArrayError(
                        "a slice needs whole numbers, and this one has an array for a bound",
                        str(here()),
                        "Write `h[:, int(k):]`, which looks at the value now; or choose by"
                        " position, `mx.where(mx.arange(h.shape[1])[:, None] >= k, h, 0)`.",
                    )


def _look(array: Any) -> tuple[int, int] | None:
    """The smallest and largest of an array from outside; what is recorded is not known yet."""
    return None if is_handle(array) else known_range(array)
