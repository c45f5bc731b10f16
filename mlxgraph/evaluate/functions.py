"""The function behind each operation's name.

The functions are taken when this module is imported: interception never reaches them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.errors import OperationError
from mlxgraph.graph import ops
from mlxgraph.graph.nested import leaves, replace_item, unflatten
from mlxgraph.mlx_facts.originals import ARRAY

_NAMESPACES = {
    "mx": dict(vars(mx)),
    "mx.linalg": dict(vars(mx.linalg)),
    "mx.fast": dict(vars(mx.fast)),
    "mx.fft": dict(vars(mx.fft)),
    "mx.random": dict(vars(mx.random)),
    "nn": {**vars(nn.layers.activations), **vars(nn)},
    "nn.losses": dict(vars(nn.losses)),
}
_reshape, _split, _full = mx.reshape, mx.split, mx.full
_broadcast_to, _normal = mx.broadcast_to, mx.random.normal


def update(base: mx.array, index: Any, value: Any) -> mx.array:
    """`base` with `base[index] = value` done to a copy."""
    changed = base.__copy__()
    changed[index] = value
    return changed


def _at(name: str) -> Callable[[mx.array, Any, Any], mx.array]:
    return lambda base, index, value: getattr(base.at[index], name)(value)


def _split_part(base: mx.array, how: Any, axis: int, number: int) -> mx.array:
    return _split(base, list(how) if isinstance(how, tuple) else how, axis)[number]


def _full_like(base: mx.array, value: Any) -> mx.array:
    # MLX 0.32 leaves a float in an integer array a float
    return _full(base.shape, value, dtype=base.dtype).astype(base.dtype)


# What the library's own operations are; every other name is that of a function of MLX.
OWN: dict[str, Callable[..., Any]] = {
    ops.GETITEM: operator.getitem,
    ops.UPDATE: update,
    ops.ITEM: operator.getitem,
    ops.PUT: replace_item,
    ops.LEAF: lambda base, index: leaves(base)[index],
    ops.UNFLATTEN_LIKE: lambda base, *parts: unflatten(base, list(parts)),
    ops.RESHAPE_LIKE: lambda part, base: _reshape(part, base.shape),
    ops.BROADCAST_LIKE: lambda part, base: _broadcast_to(part, base.shape),
    ops.ASTYPE_LIKE: lambda part, base: part.astype(base.dtype),
    ops.FULL_LIKE: _full_like,
    ops.NORMAL_LIKE: lambda base: _normal(base.shape, base.dtype),
    ops.SPLIT_PART: _split_part,
    ops.ARRAY_AND: operator.and_,
    ops.ARRAY_OR: operator.or_,
    ops.ARRAY_XOR: operator.xor,
    ops.ARRAY_INVERT: operator.invert,
    ops.ARRAY_MAKE: lambda *args, **kwargs: ARRAY(*args, **kwargs),
    **{op: _at(name) for name, op in ops.AT.items()},
}
_found: dict[str, Callable[..., Any]] = {}


def function(op: str) -> Callable[..., Any]:
    """The callable behind an operation's name.  Raises: OperationError where there is none."""
    known = OWN.get(op) or _found.get(op)
    if known is None:
        prefix, _, name = op.rpartition(".")
        known = _NAMESPACES.get(prefix, {}).get(name)
        if not callable(known):
            raise OperationError(op, "anything", "", "there is no such operation")
        _found[op] = known
    return known
