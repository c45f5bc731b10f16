"""Bounds: static indices are checked on the user's line.

MLX itself reads rubbish out of bounds and ignores writes there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxgraph.errors import BoundsError, PlainArrayError
from mlxgraph.errors.source_line import here
from mlxgraph.mlx_facts.originals import ARRAY


def check_bounds(index: Any, shape: tuple[int, ...]) -> None:
    """Raise BoundsError where a static index leaves the array: ints, lists, numpy's of both."""
    kind = type(index)
    if kind is int:
        _check_one(index, 0, shape)
    elif kind is tuple:
        _check_axes(index, shape)
    else:
        _check_part(index, 0, shape)


def _check_axes(index: tuple, shape: tuple[int, ...]) -> None:
    taken = sum(1 for part in index if part is not None and part is not Ellipsis)
    axis = 0
    for part in index:
        if part is None:
            continue
        if part is Ellipsis:
            axis = len(shape) - (taken - axis)
            continue
        if axis >= len(shape):
            raise BoundsError(axis, axis, 0, shape, str(here()))
        _check_part(part, axis, shape)
        axis += 1


def _check_part(part: Any, axis: int, shape: tuple[int, ...]) -> None:
    kind = type(part)
    if kind is int:
        _check_one(part, axis, shape)
    elif kind is list:
        for number in part:
            _check_part(number, axis, shape)
    elif kind is slice:
        for bound in (part.start, part.stop, part.step):
            if isinstance(bound, ARRAY):
                raise PlainArrayError(
                    "a slice needs whole numbers, and this one has an array for a bound",
                    str(here()),
                    "Write `h[:, int(k):]`, which looks at the value now; or choose by position,"
                    " `mx.where(mx.arange(h.shape[1])[:, None] >= k, h, 0)`.",
                )
    elif isinstance(part, np.integer):
        _check_one(int(part), axis, shape)
    elif isinstance(part, np.ndarray) and np.issubdtype(part.dtype, np.integer) and part.size:
        _check_one(int(part.min()), axis, shape)
        _check_one(int(part.max()), axis, shape)


def _check_one(number: int, axis: int, shape: tuple[int, ...]) -> None:
    size = shape[axis] if axis < len(shape) else 0
    if not -size <= number < size:
        raise BoundsError(number, axis, size, shape, str(here()))
