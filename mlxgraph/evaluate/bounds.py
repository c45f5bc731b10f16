"""Bounds: which operations index, with what, and whether an index stays inside its array.

MLX reads rubbish out of bounds, ignores writes there, or ends the process.  Checked is what is
known without a forward: whole numbers, lists of them, numpy's arrays, and MLX's where their values
are there to be looked at.
Never: waits for what the model computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from mlxgraph.graph import ops
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import FrozenList, Literal, Slice
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import known_range

Shape = tuple[int, ...]
Look = Callable[[Any], tuple[int, int] | None]  # the smallest and largest of an array, if known
UNKNOWN = slice(None)  # in place of a part of an index that nobody can look at yet


class Outside(IndexError):
    """An index that leaves its array: the number, the axis and its size, the array's shape."""

    def __init__(self, index: int, axis: int, size: int, shape: Shape):
        super().__init__(f"index {index} is out of bounds for axis {axis} of size {size}")
        self.index, self.axis, self.size, self.shape = index, axis, size, shape


class Standing(Outside):
    """A slice that takes no steps: MLX ends the process over a step of 0."""

    def __init__(self, shape: Shape):
        super().__init__(0, 0, 0, shape)


class Along(NamedTuple):
    """An index along one axis or, with axis None, into all entries in a row."""

    index: Any
    axis: Any


class Starts(NamedTuple):
    """Where a block of some size (or that of an array) begins along some axes."""

    starts: Any
    axes: Any
    size: Any


# -- which operations index ----------------------------------------------------------------------

_BY_INDEX = frozenset({ops.GETITEM, ops.UPDATE, *ops.AT.values()})
_NAMES = {  # of the arguments (one is called as an operation is): the first is what is indexed
    ops.MX_TAKE: ("a", "indices", "axis"),
    ops.MX_TAKE_ALONG_AXIS: ("a", "indices", "axis"),
    ops.MX_PUT_ALONG_AXIS: ("a", "indices", "values", "axis"),
    ops.MX_SLICE: ("a", "start_indices", "axes", "slice_size"),
    ops.MX_SLICE_UPDATE: ("a", ops.UPDATE, "start_indices", "axes"),
    ops.NN_LOSSES_CROSS_ENTROPY: ("logits", "targets", "weights", "axis"),
    ops.NN_LOSSES_NLL_LOSS: ("inputs", "targets", "axis"),
}
TAKES = frozenset(_NAMES)
INDEXES = _BY_INDEX | TAKES


def indexed(op: str, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """What an operation indexes, and with what: of values, or of a node's frozen arguments."""
    if op in _BY_INDEX:
        return args[0], args[1]
    names = _NAMES.get(op)
    if names is None:
        return None
    given = {**dict(kwargs), **dict(zip(names, args, strict=False))}
    base = given.get(names[0])
    if op == ops.MX_SLICE:
        return base, Starts(given.get("start_indices"), given.get("axes"), given.get("slice_size"))
    if op == ops.MX_SLICE_UPDATE:
        return base, Starts(given.get("start_indices"), given.get("axes"), given.get(names[1]))
    if op in ops.TAKES_CLASSES:
        return base, Along(given.get("targets"), given.get("axis", -1))
    return base, Along(given.get("indices"), given.get("axis"))


# -- whether an index stays inside ---------------------------------------------------------------


def check_call(op: str, args: Any, kwargs: Any, look: Look | None = None) -> None:
    """Raise Outside where an operation on these values indexes outside of its array.

    Args: look: looks into the arrays among the index; left out, these are believed in.
    """
    found = indexed(op, args, kwargs)
    if found is not None and isinstance(found[0], ARRAY):
        check_index(found[1], found[0].shape, look)


def check_index(index: Any, shape: Shape, look: Look | None = None) -> None:
    """Raise Outside where an index leaves an array of this shape."""
    kind = type(index)
    if kind is int:
        _check_number(index, 0, shape)
    elif kind is tuple:
        _check_axes(index, shape, look)
    elif kind is Along:
        _check_along(index, shape, look)
    elif kind is Starts:
        _check_starts(index, shape, look)
    else:
        _check_part(index, 0, shape, look)


def _check_axes(index: tuple, shape: Shape, look: Look | None) -> None:
    taken = sum(1 for part in index if part is not None and part is not Ellipsis)
    axis = 0
    for part in index:
        if part is None:
            continue
        if part is Ellipsis:
            axis = len(shape) - (taken - axis)
            continue
        if axis >= len(shape):
            raise Outside(axis, axis, 0, shape)
        _check_part(part, axis, shape, look)
        axis += 1


def _check_step(part: Any, shape: Shape) -> None:
    """Raise Standing for a slice whose step is 0."""
    if isinstance(part.step, (int, np.integer)) and not part.step:
        raise Standing(shape)


def _check_part(part: Any, axis: int, shape: Shape, look: Look | None) -> None:
    kind = type(part)
    if kind is int:
        _check_number(part, axis, shape)
    elif kind is slice:
        if part.step is not None:
            _check_step(part, shape)
    elif kind is list:
        for number in part:
            _check_part(number, axis, shape, look)
    elif isinstance(part, np.integer):
        _check_number(int(part), axis, shape)
    elif isinstance(part, np.ndarray):
        if np.issubdtype(part.dtype, np.integer) and part.size:
            _check_number(int(part.min()), axis, shape)
            _check_number(int(part.max()), axis, shape)
    elif look is not None and isinstance(part, ARRAY):
        for number in look(part) or ():
            _check_number(number, axis, shape)


def _check_number(number: int, axis: int, shape: Shape) -> None:
    size = shape[axis] if axis < len(shape) else 0
    if not -size <= number < size:
        raise Outside(number, axis, size, shape)


def _check_along(index: Along, shape: Shape, look: Look | None) -> None:
    if index.axis is None:
        _check_part(index.index, 0, (prod(shape),), look)
    elif type(index.axis) is int and -len(shape) <= index.axis < len(shape):
        _check_part(index.index, index.axis % len(shape), shape, look)


def _check_starts(index: Starts, shape: Shape, look: Look | None) -> None:
    """A block begins at an index and ends inside: here negative numbers do not count from the end.

    MLX crashes on some of these, so one that cannot be looked at is believed in.
    """
    starts, axes, size = index
    size = getattr(size, "shape", size)
    if look is None or not isinstance(starts, ARRAY) or look(starts) is None:
        return
    if not isinstance(axes, (tuple, list)) or not isinstance(size, (tuple, list)):
        return
    if len(size) != len(shape):
        return
    numbers = np.asarray(starts).reshape(-1).tolist()
    for start, axis in zip(numbers, axes, strict=False):
        last = shape[axis] - size[axis]
        if not 0 <= start <= last:
            raise Outside(start if start < 0 else start + size[axis] - 1, axis, shape[axis], shape)


# -- of nodes ------------------------------------------------------------------------------------


def check_node(node: Node, shape: Shape, lookup: Callable[[Node], Any]) -> None:
    """Raise Outside where a node, on a base of this shape, indexes outside of it.

    Args: lookup: the values of nodes among the index where they are known, and placeholders or
        `UNKNOWN` where not.
    """
    found = indexed(node.op, node.args, node.kwargs)
    if found is not None:
        kind = type(found[1])
        index = _thawed(found[1], lookup)
        check_index(kind(*index) if kind in (Along, Starts) else index, shape, known_range)


def values_of_index(node: Node) -> Iterator[Node]:
    """The constants and params among the index of a node: what another run may give others."""
    found = indexed(node.op, node.args, node.kwargs)
    seen: list[Node] = []
    if found is not None:
        _thawed(found[1], lambda child: seen.append(child) or UNKNOWN)  # type: ignore[func-returns-value]
    return (child for child in seen if child.op in (ops.CONSTANT, ops.PARAM))


def _thawed(value: Any, lookup: Callable[[Node], Any]) -> Any:
    kind = type(value)
    if kind is Node:
        return lookup(value)
    if isinstance(value, tuple):
        return tuple([_thawed(item, lookup) for item in value])
    if kind is FrozenList:
        return [_thawed(item, lookup) for item in value.value]
    if kind is Slice:
        step = value.value[2]
        return slice(None, None, 0) if step == 0 and type(step) is int else UNKNOWN
    return value.value if kind is Literal else value
