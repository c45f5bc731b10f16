"""What structure alone says about shapes and dtypes: when two nodes surely have the same.

A graph does not know the model that it will run on, so a rule may rest on nothing but the nodes
themselves: `full_like(h, 0)` is shaped as `h`, whatever `h` is.  Each question looks a few nodes
deep and no further, so that a rule costs the same in a graph of any size; what it cannot tell so
counts as different.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import FULL, DType, FrozenList, Literal, Slice

DEPTH = 12


def same_shape(a: Node, b: Node) -> bool:
    """Whether two nodes have one shape, whatever they are computed from."""
    return a is b or shape_of(a) == shape_of(b)


def same_dtype(a: Node, b: Node) -> bool:
    """Whether two nodes have one dtype, whatever they are computed from."""
    return a is b or dtype_of(a) == dtype_of(b)


def shape_of(node: Node) -> Any:
    """A key that two nodes share only if they have the same shape."""
    around: list[tuple] = []
    for _ in range(DEPTH):
        match node:
            case Node(ops.UPDATE | ops.ASTYPE_LIKE | ops.MX_ASTYPE, (inner, *_)) if is_node(inner):
                node = inner
            case Node(op, (inner, *_), ()) if op in ops.KEEPS_SHAPE and is_node(inner):
                node = inner
            case Node(ops.BROADCAST_LIKE | ops.RESHAPE_LIKE, (_, like)):
                node = like
            case Node(op, (a, b), ()) if op in ops.ELEMENTWISE and is_node(a) and is_scalar(b):
                node = a
            case Node(op, (a, b), ()) if op in ops.ELEMENTWISE and is_node(b) and is_scalar(a):
                node = b
            case Node(ops.GETITEM as op, (inner, index)) if is_static(index):
                around.append((op, index))
                node = inner
            case Node(ops.MX_TRANSPOSE as op, (inner, axes), ()) if type(axes) is tuple:
                around.append((op, axes))
                node = inner
            case _:
                break
    return _wrapped(_base_shape(node), around)


def _base_shape(node: Node) -> Any:
    match node:
        case Node(ops.MX_RESHAPE, (_, shape), ()) if type(shape) is tuple and all(
            type(size) is int and size >= 0 for size in shape
        ):
            return shape
        case Node(ops.CONSTANT, (_, shape, _)):
            return shape
    return node


def _wrapped(shape: Any, around: list[tuple]) -> Any:
    """The shape after the operations of `around`, innermost last; worked out where it is known."""
    for op, how in reversed(around):
        if op == ops.MX_TRANSPOSE and type(shape) is tuple and len(how) == len(shape):
            shape = tuple([shape[axis] for axis in how])
        else:
            shape = _Unknown(op, shape, how)
    return shape


class _Unknown(tuple):
    """An operation on a shape that is not known: never equal to a shape in numbers."""

    def __new__(cls, *parts: Any) -> _Unknown:
        return tuple.__new__(cls, ("unknown", *parts))


def dtype_of(node: Node) -> Any:
    """A key that two nodes share only if they have the same dtype."""
    for _ in range(DEPTH):
        match node:
            case Node(ops.ASTYPE_LIKE, (_, like)):
                node = like
            case Node(ops.MX_ASTYPE, (_, DType(value=name)), ()):
                return name
            case Node(ops.CONSTANT, (_, _, name)):
                return name
            case Node(op, (inner, *_)) if op in ops.KEEPS_DTYPE and is_node(inner):
                node = inner
            case _:
                break
    return node


def is_node(value: Any) -> bool:
    """Whether an argument is a node."""
    return type(value) is Node


def is_scalar(value: Any) -> bool:
    """Whether an argument is a Python number, lifted or not."""
    return type(value) in (int, Literal) or (type(value) is Node and value.op == ops.NUMBER)


def parts(index: Any) -> tuple:
    """An index as a tuple with an entry for each axis that it names."""
    return index if type(index) is tuple else (index,)


def is_static(index: Any) -> bool:
    """Whether an index names fixed positions, and none of them twice."""
    return all(_is_static_part(part) for part in parts(index))


def _is_static_part(part: Any) -> bool:
    if type(part) is Slice:
        return all(type(bound) is int or bound is None for bound in part.value)
    if type(part) is FrozenList:
        positions = part.value
        one_way = all(type(p) is int for p in positions) and len({p < 0 for p in positions}) < 2
        return one_way and len(set(positions)) == len(positions)
    return type(part) is int or part is None or part is Ellipsis


def is_whole(index: Any) -> bool:
    """Whether an index names everything: `...`, `:`, `:, :`."""
    return index != () and all(part is Ellipsis or part == FULL for part in parts(index))


def are_apart(one: Any, other: Any) -> bool:
    """Whether two indices surely name nothing in common: `[:, 0]` and `[:, 1]`."""
    for a, b in zip(parts(one), parts(other), strict=False):
        if not (type(a) in (int, Slice) and type(b) in (int, Slice)):
            return False  # from here on the entries may not stand for the same axis
        if type(a) is int and type(b) is int and a != b and (a < 0) == (b < 0):
            return True
    return False
