"""Conforming: what is written takes the shape and dtype of what stood there.

A number fills, an array of another dtype is cast, one that broadcasts is broadcast; anything
else is an error that names both shapes, what was written and the line.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxgraph.errors import OperationError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.graph import ops
from mlxgraph.graph.nested import (
    entries,
    is_container,
    leaves,
    map_nested,
    rebuilt,
)
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts.dtypes import whole_range
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.entries import to_first_array
from mlxgraph.record.freeze import freeze, node_of
from mlxgraph.record.handle import HANDLES, is_handle
from mlxgraph.record.nested_proxy import is_nested

NUMBER_KINDS = {int: "int", float: "float", bool: "bool"}
MOST_SAID = 8  # of the arrays of a nested value, in an error
ANY_DTYPE = range(128)  # the ints that every dtype holds


def check_number(op: str, value: Any, array: Any) -> None:
    """Raise where a Python int does not fit into the dtype of the array that it meets.

    Eager MLX refuses it, and a compiled pass, whose input it is, would let it wrap around.
    """
    if type(value) is not int or value in ANY_DTYPE:
        return
    fitting = whole_range(array.dtype)
    if fitting is not None and value not in fitting:
        name = dtype_name(array.dtype)
        raise OperationError(
            op.removeprefix("mx."),
            f"{shape_and_dtype(array)} and {value}",
            str(here()),
            f"{name} goes from {fitting[0]} to {fitting[-1]}.\n  Write h.astype(...) first",
        )


def conformed(recording: Any, value: Any, like: Node, what: Any) -> Node:
    """`value` as a node of the shape and dtype that `like` has, or an error that says why.

    Args: what: the handle or site that is written, for the error's text.
    """
    target = recording.info(like).value
    if isinstance(target, ARRAY) and type(value) in HANDLES and isinstance(value, ARRAY):
        node = node_of(value, recording)  # most often; and nothing to do to it
        if value.shape == target.shape and value.dtype == target.dtype:
            return node
    if is_container(target):
        return _conformed_nested(recording, value, like, target, what)
    if not isinstance(target, ARRAY):
        raise ShapeError(f"{told(what)} holds {target!r}, not an array", str(here()))
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in NUMBER_KINDS:
        check_number(ops.FULL_LIKE, value, target)
        return recording.build(ops.FULL_LIKE, (like, recording.operand(value)))
    if isinstance(value, (list, complex)) and not is_nested(value):
        value = ARRAY(value)
    if not (isinstance(value, ARRAY) or is_handle(value) or hasattr(value, "__array__")):
        raise ShapeError(
            f"{told(what)} is {shape_and_dtype(target)} and cannot be written with a "
            f"{type(value).__name__}",
            str(here()),
            "Write an array, a proxy or a number.",
        )
    node = freeze(value, recording)
    given = recording.info(node).value
    if is_container(given):
        raise ShapeError(
            f"{told(what)} is one array, {shape_and_dtype(target)}, and was given "
            f"{shape_and_dtype(given)}",
            str(here()),
            "Give it one array: mx.array(...) of numbers in a list, or a part of it.",
        )
    if not isinstance(given, ARRAY):  # a number, or a param that stands for one
        return recording.build(ops.FULL_LIKE, (like, node))
    spare = len(given.shape) - len(target.shape)
    if spare > 0 and is_handle(what) and set(given.shape[:spare]) == {1}:
        # MLX writes (1, n) into (n,), and so do we where a part is written
        node = recording.build(ops.MX_SQUEEZE, (node, tuple(range(spare))))
        given = recording.info(node).value
    if given.shape != target.shape:
        if not _broadcasts(given.shape, target.shape):
            raise ShapeError(
                f"{told(what)} is {target.shape} and cannot be written with {given.shape}",
                str(here()),
                "Give it the same shape, or one that broadcasts to it.",
            )
        node = recording.build(ops.BROADCAST_LIKE, (node, like))
    if given.dtype != target.dtype:
        if not is_handle(what):
            _check_real(given, target, what)
        node = recording.build(ops.ASTYPE_LIKE, (node, like))
    return node


def _check_real(given: Any, target: Any, what: Any) -> None:
    """Raise where a whole value would be replaced by the real part of what is given.

    A write to a part of an array does as plain MLX does, which keeps the real part.
    """
    if dtype_name(given.dtype) != "complex64":
        return
    raise OperationError(
        told(what),
        "complex numbers",
        str(here()),
        f"it is {dtype_name(target.dtype)}, and would keep their real part alone.\n"
        "  Write mx.real(value) where you mean that part",
    )


def _conformed_nested(recording: Any, value: Any, like: Node, target: Any, what: Any) -> Node:
    given = _opened(value)
    aligned = _aligned(given, target)
    if aligned is None:
        raise ShapeError(
            f"{told(what)} is {shape_and_dtype(target)} and cannot be written with one "
            f"{type(value).__name__}",
            str(here()),
            f"Write to its entries: `{told(what)}{to_first_array(target)} = ...`.",
        )
    if is_nested(value):
        return freeze(value, recording)
    parts = []
    for index, (new, old) in enumerate(zip(aligned, leaves(target), strict=True)):
        leaf = recording.build(ops.LEAF, (like, index))
        parts.append(
            conformed(recording, new, leaf, f"{told(what)}, part {index}")
            if isinstance(old, ARRAY)
            else freeze(new, recording)
        )
    return recording.build(ops.UNFLATTEN_LIKE, (like, *parts))


def _opened(value: Any) -> Any:
    """A nested value of single handles, for one with handles on nested values in it."""
    if is_nested(value):
        return rebuilt(value._template, [_opened(part) for _, part in value.__entries__()])
    return map_nested(value, lambda v: _opened(v) if is_nested(v) else v)


def _aligned(given: Any, target: Any) -> list[Any] | None:
    """The leaves of what is written in the target's order; None where it is built otherwise."""
    if not is_container(target) or not is_container(given):
        return None if is_container(target) or is_container(given) else [given]
    mine, theirs = entries(given), entries(target)
    if len(mine) != len(theirs):
        return None
    if not isinstance(given, (list, tuple)) and not isinstance(target, (list, tuple)):
        named = dict(mine)
        if any(key not in named for key, _ in theirs):
            return None
        mine = [(key, named[key]) for key, _ in theirs]
    found: list[Any] = []
    for (_, part), (_, like) in zip(mine, theirs, strict=True):
        inside = _aligned(part, like)
        if inside is None:
            return None
        found += inside
    return found


def shape_and_dtype(value: Any) -> str:
    """`(1, 6, 128) float32`, or the nested form of it."""
    if isinstance(value, ARRAY):
        return f"{value.shape} {dtype_name(value.dtype)}"
    if is_container(value):
        inside = leaves(value)
        said = [shape_and_dtype(leaf) for leaf in inside[:MOST_SAID]]
        more = f" and {len(inside) - MOST_SAID} more" if len(inside) > MOST_SAID else ""
        return f"{type(value).__name__} of {', '.join(said)}{more}"
    return f"the {type(value).__name__} {value!r}" if value is not None else "None"


def told(what: Any) -> str:
    """A handle, site or text, as an error names it."""
    if is_handle(what):
        return what._describe()
    return what.spoken if isinstance(what, Site) else str(what)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    if len(shape) > len(target):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(target), strict=False))
