"""The function behind each operation's name.

The functions are taken when this module is imported: interception never reaches them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxgraph.errors import OperationError
from mlxgraph.graph import ops
from mlxgraph.graph.nested import entry, leaves, replace_item, unflatten
from mlxgraph.graph.steps import takes_step
from mlxgraph.mlx_facts.arrays import chooses_nothing, filled_like, same_data, writes_elsewhere
from mlxgraph.mlx_facts.originals import (
    ARRAY,
    NAMESPACES,
    arange,
    broadcast_to,
    normal,
    reshape,
    split,
)


def update(base: mx.array, index: Any, value: Any) -> mx.array:
    """`base` with `base[index] = value` done to a copy."""
    if chooses_nothing(base, index):
        return base
    if writes_elsewhere(index):
        return _by_place(base, index, value, update)
    changed = same_data(base)
    changed[index] = value
    return changed


def _at(name: str) -> Callable[[mx.array, Any, Any], mx.array]:
    def changed(base: mx.array, index: Any, value: Any) -> mx.array:
        if chooses_nothing(base, index):
            return base
        if writes_elsewhere(index):
            return _by_place(base, index, value, changed)
        return getattr(base.at[index], name)(value)

    return changed


def _by_place(
    base: mx.array, index: Any, value: Any, change: Callable[[mx.array, Any, Any], mx.array]
) -> mx.array:
    """A change of the part that an index reads, number by number."""
    places = reshape(arange(base.size), base.shape)[index]
    value = value if isinstance(value, ARRAY) else ARRAY(value, dtype=base.dtype)
    value = reshape(broadcast_to(value, places.shape), (-1,))
    return reshape(change(reshape(base, (-1,)), reshape(places, (-1,)), value), base.shape)


def _split_part(base: mx.array, how: Any, axis: int, number: int) -> mx.array:
    parts = split(base, list(how) if isinstance(how, tuple) else how, axis)
    # A slice, for `mx.compile` may fail where it merges several splits of one array
    # ("_Map_base::at", of a GRU); `split` is asked what fits, and its result is not used.
    start = sum(part.shape[axis] for part in parts[:number])
    where = [slice(None)] * base.ndim
    where[axis] = slice(start, start + parts[number].shape[axis])
    return base[tuple(where)]


# What the library's own operations are; every other name is that of a function of MLX.
OWN: dict[str, Callable[..., Any]] = {
    ops.GETITEM: operator.getitem,
    ops.UPDATE: update,
    ops.ITEM: entry,
    ops.PUT: replace_item,
    ops.LEAF: lambda base, index: leaves(base)[index],
    ops.UNFLATTEN_LIKE: lambda base, *parts: unflatten(base, list(parts)),
    ops.RESHAPE_LIKE: lambda part, base: reshape(part, base.shape),
    ops.BROADCAST_LIKE: lambda part, base: broadcast_to(part, base.shape),
    ops.ASTYPE_LIKE: lambda part, base: part.astype(base.dtype),
    ops.FULL_LIKE: filled_like,
    ops.NORMAL_LIKE: lambda base: normal(base.shape, base.dtype),
    ops.SPLIT_PART: _split_part,
    ops.AT_STEPS: lambda steps, before, inside: inside if takes_step(steps, 0) else before,
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
        known = NAMESPACES.get(prefix, {}).get(name)
        if not callable(known):
            raise OperationError(op, "anything", "", "there is no such operation")
        _found[op] = known
    return known
