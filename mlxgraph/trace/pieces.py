"""One value of what the chunks of a prompt gave."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.graph.nested import leaves, unflatten
from mlxgraph.rewrite.chunks import Keys
from mlxgraph.rewrite.positions import Save


def joined(pieces: list[tuple[Save, Any]]) -> Any:
    """One value of what the forwards of one step gave: the chunks of a prompt."""
    save, first = pieces[-1]
    if isinstance(save.axes, Keys):
        return _with_all_keys(pieces, save.axes)
    if len(pieces) == 1 or save.axes is None:
        return first
    if isinstance(save.axes, frozenset):
        return [value for _, value in pieces]
    if type(save.axes) is int:
        return mx.concatenate([value for _, value in pieces], axis=save.axes)
    parts = []
    columns = zip(*[leaves(value) for _, value in pieces], strict=True)
    for axis, column in zip(leaves(save.axes), columns, strict=True):
        parts.append(mx.concatenate(column, axis=axis) if type(axis) is int else column[-1])
    return unflatten(first, parts)


def _with_all_keys(pieces: list[tuple[Save, Any]], keys: Keys) -> mx.array:
    """Chunks that have keys for different numbers of tokens, as those of the last of them."""
    found = [_padded(value, save.axes) for save, value in pieces]
    return found[-1] if keys.rows is None else mx.concatenate(found, axis=keys.rows)


def _padded(value: mx.array, keys: Keys) -> mx.array:
    if keys.here is None:
        return value
    shape = [*value.shape]
    shape[keys.axis] = 1
    after = mx.full(shape, keys.pad, value.dtype)
    places = {number: k for k, number in enumerate(keys.here)}
    numbers = [places.get(number, len(places)) for number in range(keys.size)]
    whole = mx.concatenate([value, after], axis=keys.axis)
    return mx.take(whole, mx.array(numbers), axis=keys.axis)
