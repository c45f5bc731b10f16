"""A cache of mlx-lm's in a forward that is compiled: keys and values of a fixed size, and how many
tokens they hold as an array.

mlx-lm's `KVCache` keeps its keys in a buffer that grows by 256 positions, and gives the part that
is filled.  A compiled forward must not depend on how much that is: it gives the whole buffer, and a
mask that hides the rest.

In: a plain `KVCache` that has room.  Out: what a model takes in its stead, for one token.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx


def has_room(cache: Any) -> bool:
    """A `KVCache` has room for one more token where its buffer is larger than `offset`."""
    from mlx_lm.models.cache import KVCache  # here: importing mlx-lm takes longer than all of mlx

    if type(cache) is not KVCache or cache.keys is None or cache.values is None:
        return False
    return bool(cache.offset < cache.keys.shape[2] == cache.values.shape[2])


class FixedCache:
    """One layer's keys and values, (batch, heads, size, width); `offset` of them are filled."""

    def __init__(self, keys: mx.array, values: mx.array, offset: mx.array):
        self.keys, self.values, self.offset = keys, values, offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Models hand a layer's new keys and values to their cache, and attend to what it gives."""
        start = self.offset.reshape(1)
        self.keys = mx.slice_update(self.keys, keys.astype(self.keys.dtype), start, [2])
        self.values = mx.slice_update(self.values, values.astype(self.values.dtype), start, [2])
        self.offset = self.offset + keys.shape[2]
        return self.keys, self.values

    def make_mask(self, count: int, window_size: int | None = None, **_: Any) -> mx.array:
        """`create_attention_mask` asks a cache that has this, by keywords of its own."""
        columns = mx.arange(self.keys.shape[2])[None]
        rows = self.offset + mx.arange(count)[:, None]
        mask = columns <= rows
        return mask if window_size is None else mask & (columns > rows - window_size)


def advance(cache: Any, keys: mx.array, values: mx.array) -> None:
    """What a `KVCache` holds are its buffers, and `offset`, a whole number."""
    cache.keys, cache.values = keys, values
    cache.offset += 1
