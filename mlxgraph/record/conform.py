"""Fitting: what is written to a place gets the shape and dtype of what stood there.

A number fills, an array of another dtype is cast, one that broadcasts is broadcast; anything
else is an error that names both shapes, the place and the line.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxgraph.errors import ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.graph.nested import is_container, leaves
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.freeze import dtype_name, freeze
from mlxgraph.record.handle import HANDLES
from mlxgraph.record.nested_proxy import Nest

NUMBER_KINDS = {int: "int", float: "float", bool: "bool"}


def fitted(recording: Any, value: Any, like: Node, what: Any) -> Node:
    """`value` as a node of the shape and dtype that `like` has, or an error that says why.

    Args: what: the handle or site that is written, for the error's text.
    """
    target = recording.info(like).value
    if is_container(target):
        return _fitted_nest(recording, value, like, target, what)
    if not isinstance(target, ARRAY):
        raise ShapeError(f"{told(what)} holds {target!r}, not an array", str(here()))
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in NUMBER_KINDS:
        return recording.build("full_like", (like, recording.operand(value)))
    if isinstance(value, list):
        value = ARRAY(value)
    if not (isinstance(value, ARRAY) or type(value) in HANDLES or hasattr(value, "__array__")):
        raise ShapeError(
            f"{told(what)} is {describe(target)} and cannot be written with a "
            f"{type(value).__name__}",
            str(here()),
            "Write an array, a proxy or a number.",
        )
    node = freeze(value, recording)
    given = recording.info(node).value
    if is_container(given):
        raise ShapeError(
            f"{told(what)} is one array, {describe(target)}, and was given {describe(given)}",
            str(here()),
        )
    if not isinstance(given, ARRAY):  # a number, or a param that stands for one
        return recording.build("full_like", (like, node))
    if given.shape != target.shape:
        if not _broadcasts(given.shape, target.shape):
            raise ShapeError(
                f"{told(what)} is {target.shape} and cannot be written with {given.shape}",
                str(here()),
                "Give it the same shape, or one that broadcasts to it.",
            )
        node = recording.build("broadcast_like", (node, like))
    if given.dtype != target.dtype:
        node = recording.build("astype_like", (node, like))
    return node


def _fitted_nest(recording: Any, value: Any, like: Node, target: Any, what: Any) -> Node:
    given = value._value_template() if type(value) is Nest else value
    if not is_container(given) or len(leaves(given)) != len(leaves(target)):
        raise ShapeError(
            f"{told(what)} is {describe(target)} and cannot be written with one "
            f"{type(value).__name__}",
            str(here()),
            "Write to its entries: `module.output[0] = ...`.",
        )
    if type(value) is Nest:
        return freeze(value, recording)
    parts = []
    for index, (new, old) in enumerate(zip(leaves(given), leaves(target), strict=True)):
        place = recording.build("leaf", (like, index))
        parts.append(
            fitted(recording, new, place, f"{told(what)}, part {index}")
            if isinstance(old, ARRAY)
            else freeze(new, recording)
        )
    return recording.build("unflatten_like", (like, *parts))


def describe(value: Any) -> str:
    """`(1, 6, 128) float32`, or the nested form of it."""
    if isinstance(value, ARRAY):
        return f"{value.shape} {dtype_name(value.dtype)}"
    if is_container(value):
        return f"{type(value).__name__} of " + ", ".join(describe(v) for v in leaves(value))
    return f"the {type(value).__name__} {value!r}" if value is not None else "None"


def told(what: Any) -> str:
    """A handle, site or text, as an error names it."""
    return what._describe() if getattr(type(what), "_is_handle", False) else str(what)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    if len(shape) > len(target):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(target), strict=False))
