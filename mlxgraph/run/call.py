"""Signatures: what about a call's inputs decides which census and which compiled pass fit it.

Arrays count by shape and dtype, plain values by value.  Anything else (a cache object, say)
carries state that a trace would bake in, so a call with such inputs always runs eagerly.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph.nested import is_container, map_nested
from mlxgraph.mlx_facts.placeholders import placeholder

_PLAIN = (int, float, str, bool, bytes, type(None))


class Call(NamedTuple):
    """The inputs of one forward, and what they look like."""

    args: tuple
    kwargs: dict[str, Any]
    key: Any
    arrays: list[mx.array]
    plain: bool  # nothing but arrays and plain values


def describe_call(args: tuple, kwargs: dict[str, Any]) -> Call:
    """The signature of a call, and handles on its arrays as they are now."""
    if len(args) == 1 and not kwargs and isinstance(args[0], mx.array):
        array = args[0].__copy__()
        args = (array,)
        return Call(args, kwargs, (array.shape, array.dtype), [array], True)
    args, kwargs = map_nested(
        (args, kwargs), lambda v: v.__copy__() if isinstance(v, mx.array) else v
    )
    arrays: list[mx.array] = []
    plain = True

    def key(value: Any) -> Any:
        nonlocal plain
        if isinstance(value, mx.array):
            arrays.append(value)
            return (mx.array, value.shape, value.dtype)
        if isinstance(value, dict) and is_container(value):
            return (dict, tuple((name, key(item)) for name, item in value.items()))
        if is_container(value):
            return (type(value), tuple(key(item) for item in value))
        if isinstance(value, _PLAIN):
            return (type(value), value)
        plain = False
        return (type(value), id(value))

    return Call(args, kwargs, key((args, kwargs)), arrays, plain)


def fill(call: Call, arrays: Any) -> tuple[tuple, dict[str, Any]]:
    """The call's inputs with other arrays in place of its own."""
    rest = iter(arrays)
    return map_nested(
        (call.args, call.kwargs), lambda v: next(rest) if isinstance(v, mx.array) else v
    )


def without_values(call: Call) -> Call:
    """The call with placeholders for its arrays: what a pass may keep of its first inputs."""
    if not call.plain:
        return call
    arrays = [placeholder(array.shape, array.dtype) for array in call.arrays]
    args, kwargs = fill(call, arrays)
    return call._replace(args=args, kwargs=kwargs, arrays=arrays)


def untouched(call: Call) -> tuple[tuple, dict[str, Any]]:
    """Inputs that a forward may change without the caller noticing."""
    if call.plain:
        return call.args, call.kwargs
    return map_nested(
        (call.args, call.kwargs),
        lambda v: v if isinstance(v, (mx.array, *_PLAIN)) else copy.deepcopy(v),
    )


def again(call: Call) -> Call:
    """The call for another run: with copies of whatever a forward may change."""
    if call.plain:
        return call
    args, kwargs = untouched(call)
    return call._replace(args=args, kwargs=kwargs)
