"""One node's value from the values of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxgraph.evaluate.functions import function
from mlxgraph.graph import ops
from mlxgraph.graph.nested import map_nested
from mlxgraph.graph.node import Node, is_draw
from mlxgraph.graph.values import Device, DType, FrozenDict, FrozenList, Literal, Opaque, Slice
from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.mlx_facts.devices import device_named
from mlxgraph.mlx_facts.dtypes import dtype_beside, dtype_named
from mlxgraph.mlx_facts.originals import ARRAY

Lookup = Callable[[Node], Any]


def same_data_in(value: Any) -> Any:
    """A nested value with other array objects on the same data: models and functions change
    arrays in place (`x += y`)."""
    return map_nested(value, lambda v: same_data(v) if isinstance(v, ARRAY) else v)


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


def evaluate(node: Node, lookup: Lookup) -> Any:
    """The value of one node that is no source and calls no module."""
    args, kwargs = arguments(node, lookup)
    if any(type(value) is Node and value.op in _LIFTED for value in node.args):
        args = _weakly_typed(node, args)
    if node.op == ops.APPLY:  # on arrays of its own: what it does in place stays with it
        inputs, named = same_data_in((args[1:], kwargs))
        return args[0](*inputs, **named)
    if is_draw(node):
        args = args[1:]  # the first argument only tells one draw from another
    return function(node.op)(*args, **kwargs)


_LIFTED = frozenset({ops.NUMBER, ops.PARAM})


def _is_weak(node: Any) -> bool:
    """Whether a node is a Python number in disguise: it takes the dtype of what it meets."""
    return type(node) is Node and (
        node.op == ops.NUMBER or (node.op == ops.PARAM and node.args[1] is None)
    )


def _weakly_typed(node: Node, args: list[Any]) -> list[Any]:
    """Give lifted numbers the dtype that MLX would give the Python number in their stead."""
    partner = next(
        (
            value.dtype
            for child, value in zip(node.args, args, strict=True)
            if isinstance(value, ARRAY)
            and not _is_weak(child)
            and not (node.op == ops.MX_WHERE and value is args[0])
        ),
        None,
    )
    if partner is None:
        return args
    return [
        value.astype(dtype_beside(value.dtype, partner))
        if _is_weak(child) and isinstance(value, ARRAY)
        else value
        for child, value in zip(node.args, args, strict=True)
    ]
