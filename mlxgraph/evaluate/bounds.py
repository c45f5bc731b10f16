"""Bounds: which operations index, with what, and whether an index stays inside its array.

MLX reads rubbish out of bounds, ignores writes there, or ends the process.  Checked is what is
known without a forward: whole numbers, lists of them, numpy's arrays, and MLX's where their values
are there to be looked at.
Never: waits for what the model computes.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Batches(NamedTuple):
    """Which matrices of two stacks are multiplied; `other` is the second stack."""

    left: Any
    right: Any
    other: Any


class Segments(NamedTuple):
    """Where parts of the last axis begin and end: the end is the first number outside."""

    ends: Any


class Strided(NamedTuple):
    """Entries at regular steps through all numbers in a row."""

    sizes: Any
    strides: Any
    offset: Any


# -- which operations index ----------------------------------------------------------------------

_AS_STRIDED = "mx.as_strided"  # in no row of the table, for no file may name it
_BY_INDEX = frozenset({ops.GETITEM, ops.UPDATE, *ops.AT.values()})
_NAMES = {  # of the arguments (one is called as an operation is): the first is what is indexed
    ops.MX_TAKE: ("a", "indices", "axis"),
    ops.MX_TAKE_ALONG_AXIS: ("a", "indices", "axis"),
    ops.MX_PUT_ALONG_AXIS: ("a", "indices", "values", "axis"),
    ops.MX_SLICE: ("a", "start_indices", "axes", "slice_size"),
    ops.MX_SLICE_UPDATE: ("a", ops.UPDATE, "start_indices", "axes"),
    ops.MX_GATHER_MM: ("a", "b", "lhs_indices", "rhs_indices"),
    ops.MX_GATHER_QMM: ("x", "w", "scales", "biases", "lhs_indices", "rhs_indices"),
    ops.MX_SEGMENTED_MM: ("a", "b", "segments"),
    _AS_STRIDED: ("a", "shape", "strides", "offset"),
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
    if op in (ops.MX_GATHER_MM, ops.MX_GATHER_QMM):
        left, right = given.get("lhs_indices"), given.get("rhs_indices")
        return base, Batches(left, right, given.get(names[1]))
    if op == ops.MX_SEGMENTED_MM:
        return base, Segments(given.get("segments"))
    if op == _AS_STRIDED:
        return base, Strided(given.get("shape"), given.get("strides"), given.get("offset", 0))
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
    elif kind in _CHECKS:
        _CHECKS[kind](index, shape, look)
    else:
        _check_part(index, 0, shape, look)


def _check_axes(index: tuple, shape: Shape, look: Look | None) -> None:
    taken = sum(1 for part in index if part is not None and part is not Ellipsis)
    if taken > len(shape):
        raise Outside(len(shape), len(shape), 0, shape)
    axis = 0
    for part in index:
        if part is None:
            continue
        if part is Ellipsis:
            axis = len(shape) - (taken - axis)
            continue
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


def _check_batches(index: Batches, shape: Shape, look: Look | None) -> None:
    """Negative numbers do not count from the end here."""
    other = getattr(index.other, "shape", None)
    for part, stack in ((index.left, shape), (index.right, other)):
        if stack is not None and look is not None and isinstance(part, ARRAY):
            size = prod(stack[:-2])
            for number in look(part) or ():
                if not 0 <= number < size:
                    raise Outside(number, 0, size, stack)


def _check_segments(index: Segments, shape: Shape, look: Look | None) -> None:
    if look is not None and isinstance(index.ends, ARRAY):
        for number in look(index.ends) or ():
            if not 0 <= number <= shape[-1]:
                raise Outside(number, len(shape) - 1, shape[-1], shape)


def _check_strided(index: Strided, shape: Shape, look: Look | None) -> None:
    sizes = shape if index.sizes is None else tuple(index.sizes)
    strides = index.strides
    if strides is None:
        strides = [prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    if len(strides) != len(sizes) or not prod(sizes):
        return
    steps = [(size - 1) * stride for size, stride in zip(sizes, strides, strict=True)]
    first, count = index.offset or 0, prod(shape)
    for number in (first + sum(min(step, 0) for step in steps), first + sum(map(_up, steps))):
        if not 0 <= number < count:
            raise Outside(number, 0, count, shape)


def _up(step: int) -> int:
    return max(step, 0)


_CHECKS: dict[Any, Callable[[Any, Shape, Look | None], None]] = {
    Along: _check_along,
    Starts: _check_starts,
    Batches: _check_batches,
    Segments: _check_segments,
    Strided: _check_strided,
}


# -- of nodes ------------------------------------------------------------------------------------


def frozen_index(node: Node) -> Any:
    """What a node indexes with, as it stands in the graph; None where it does not index."""
    found = indexed(node.op, node.args, node.kwargs)
    return None if found is None else found[1]


def check_frozen(index: Any, shape: Shape, lookup: Callable[[Node], Any]) -> None:
    """Raise Outside where the index of a node leaves an array of this shape.

    Args: lookup: the values of nodes among the index where they are known, and placeholders or
        `UNKNOWN` where not.
    """
    kind = type(index)
    thawed = _thawed(index, lookup)
    check_index(kind(*thawed) if kind in _CHECKS else thawed, shape, known_range)


def nodes_in(index: Any) -> list[Node]:
    """The nodes among the index of a node."""
    seen: list[Node] = []
    _thawed(index, lambda child: seen.append(child) or UNKNOWN)  # type: ignore[func-returns-value]
    return seen


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
