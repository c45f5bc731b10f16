"""One node's value from the values of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlxgraph.errors import OperationError
from mlxgraph.errors.source_line import here
from mlxgraph.evaluate.bounds import INDEXES, check_call
from mlxgraph.evaluate.functions import function
from mlxgraph.graph import ops
from mlxgraph.graph.nested import map_nested
from mlxgraph.graph.node import Node, called, is_draw, is_number
from mlxgraph.graph.values import Device, DType, FrozenDict, FrozenList, Literal, Opaque, Slice
from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.mlx_facts.devices import device_named
from mlxgraph.mlx_facts.dtypes import dtype_beside, dtype_named
from mlxgraph.mlx_facts.originals import ARRAY

Lookup = Callable[[Node], Any]


def same_data_in(value: Any) -> Any:
    """A nested value with other array objects on the same data: models and functions change
    arrays in place (`x += y`)."""
    try:
        return map_nested(value, lambda v: same_data(v) if isinstance(v, ARRAY) else v)
    except RecursionError:
        raise OperationError(
            "reading",
            f"a {type(value).__name__}",
            str(here()),
            "it contains itself.\n  Save what the modules inside give",
        ) from None


def thaw(value: Any, lookup: Lookup) -> Any:
    """A frozen argument as the Python value that MLX takes."""
    kind = type(value)
    if kind is Node:
        return lookup(value)
    if kind is tuple:
        return tuple([thaw(item, lookup) for item in value])
    if kind is Slice:
        return slice(*[_whole(thaw(item, lookup)) for item in value.value])
    if kind is Literal or kind is Opaque:
        return value.value
    if kind is FrozenList:
        return [thaw(item, lookup) for item in value.value]
    if kind is Device:
        return device_named(value.value)
    if kind is DType:
        return dtype_named(value.value)
    if kind is FrozenDict:
        return {name: thaw(item, lookup) for name, item in value.value}
    return value


def _whole(value: Any) -> Any:
    return value.item() if isinstance(value, ARRAY) else value


def arguments(node: Node, lookup: Lookup) -> tuple[list[Any], dict[str, Any]]:
    """A node's arguments and keyword arguments as the Python values they stand for."""
    args = [thaw(value, lookup) for value in node.args]
    return args, {name: thaw(value, lookup) for name, value in node.kwargs}


def call_arguments(node: Node, lookup: Lookup) -> tuple[str, list[Any], dict[str, Any]]:
    """The path of a module that is called by hand, and what it is called with."""
    args, kwargs = arguments(node, lookup)
    return called(node), args[2 if is_draw(node) else 1 :], kwargs


def evaluate(node: Node, lookup: Lookup) -> Any:
    """The value of one node that is no source and calls no module."""
    args, kwargs = arguments(node, lookup)
    if any(map(_may_be_weak, node.args, args)):
        args = _weakly_typed(node, args)
    if node.op == ops.APPLY:  # on arrays of its own: what it does in place stays with it
        inputs, named = same_data_in((args[1:], kwargs))
        return map_nested(args[0](*inputs, **named), _as_array)
    if node.op in INDEXES:
        check_call(node.op, args, kwargs)
    if is_draw(node):
        args = args[1:]  # the first argument only tells one draw from another
    return function(node.op)(*args, **kwargs)


def _as_array(value: Any) -> Any:
    """What a function answers, as an array where it is numpy's or a number: it may be another one
    at every run."""
    if isinstance(value, ARRAY) or not isinstance(value, (int, float, complex, *_OF_NUMPY)):
        return value
    return ARRAY(value)


_OF_NUMPY = (np.ndarray, np.generic)
_LIFTED = frozenset({ops.NUMBER, ops.PARAM})


def _may_be_weak(child: Any, value: Any) -> bool:
    return type(child) is Node and (
        child.op in _LIFTED or (isinstance(value, ARRAY) and not value.ndim)
    )


def _weakly_typed(node: Node, args: list[Any]) -> list[Any]:
    """Give lifted numbers the dtype that MLX would give the Python number in their stead."""
    weak = [type(child) is Node and is_number(child) for child in node.args]
    if not any(weak):
        return args
    first = 1 if node.op == ops.MX_WHERE else 0  # its condition has no part in the dtype
    partner = next(
        (
            value.dtype
            for value, is_weak in list(zip(args, weak, strict=True))[first:]
            if isinstance(value, ARRAY) and not is_weak
        ),
        None,
    )
    if partner is None:
        return args
    return [
        value.astype(dtype_beside(value.dtype, partner))
        if is_weak and k >= first and isinstance(value, ARRAY)
        else value
        for k, (value, is_weak) in enumerate(zip(args, weak, strict=True))
    ]
