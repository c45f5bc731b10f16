"""Bounds: static indices are checked on the user's line.

MLX itself reads rubbish out of bounds and ignores writes there.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import BoundsError
from mlxgraph.record.where import here


def check_bounds(index: Any, shape: tuple[int, ...]) -> None:
    """Static indices are checked here: MLX reads rubbish and ignores writes out of bounds."""
    if type(index) is int:
        if not shape or not -shape[0] <= index < shape[0]:
            raise BoundsError(index, 0, shape[0] if shape else 0, shape, str(here()))
        return
    if type(index) is not tuple:
        if type(index) is list:
            _check_list(index, 0, shape)
        return
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
        if type(part) is int and not -shape[axis] <= part < shape[axis]:
            raise BoundsError(part, axis, shape[axis], shape, str(here()))
        if type(part) is list:
            _check_list(part, axis, shape)
        axis += 1


def _check_list(part: list, axis: int, shape: tuple[int, ...]) -> None:
    for number in part:
        if type(number) is int and not -shape[axis] <= number < shape[axis]:
            raise BoundsError(number, axis, shape[axis], shape, str(here()))
        if type(number) is list:
            _check_list(number, axis, shape)
