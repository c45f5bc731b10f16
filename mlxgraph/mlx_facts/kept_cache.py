"""mlx-lm's caches, made to hold the beginning of a text and never more.

A model hands each layer's new keys and values to its cache, and attends to what that gives back.  A
cache of mlx-lm's keeps them; these give them behind those they hold, and hold the same ones in the
next forward.  Whatever a model reads off a cache beside (its offset, a mask, the keys of a layer
before that this one shares) it finds.

In: the caches that mlx-lm makes for a model.  Out: ones that watch a whole forward, and ones that
hold the first positions of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx


class NoKeptForm(Exception):  # noqa: N818 - whoever knows the model says it to the user
    """A kind of cache that does more than to hold keys and values, one position after the other."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind


class KeptCache:
    """One layer's keys and values, (batch, heads, positions, width), of the first `offset` tokens.

    Attributes:
        keys, values: what a layer was given last, as those of mlx-lm's caches are; before that what
            is held.
        window: how many positions a token attends to, where it is that of the kind of cache.
    """

    def __init__(
        self,
        offset: int = 0,
        keys: mx.array | None = None,
        values: mx.array | None = None,
        window: int | None = None,
    ):
        self.offset = offset
        self.keys, self.values = keys, values
        self.window = window
        self._held = (keys, values)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Models call this once a layer, with keys and values along axis 2; the offset that they
        count positions from they read before.

        There may be more rows than are held: whole copies of those, one after the other.
        """
        held_keys, held_values = self._held
        if held_keys is not None and held_values is not None:
            keys, values = _after(held_keys, keys), _after(held_values, values)
        self.keys, self.values = keys, values
        return keys, values

    def keys_and_values(self) -> tuple[mx.array | None, mx.array | None]:
        """What a layer that shares the keys of one before it asks for."""
        return self.keys, self.values

    @property
    def state(self) -> tuple[Any, ...]:
        return self.keys, self.values, self.offset

    def make_mask(
        self, count: int, window_size: int | None = None, return_array: bool = False
    ) -> Any:
        """`create_attention_mask` asks a cache that has this.

        A `RotatingKVCache` takes its own size for the window of a layer that names none.  Here all
        keys are held, so a single token needs a mask where the window is shorter than the text.
        mlx-lm's caches are not asked: before 0.31 a `KVCache` forgets the window.
        """
        from mlx_lm.models.base import create_causal_mask  # here: it takes long to import

        window = window_size or self.window
        is_cut = window is not None and self.offset + count > window
        if is_cut or (return_array and count > 1):
            return create_causal_mask(count, self.offset, window_size=window)
        return "causal" if count > 1 else None

    def size(self) -> int:
        return self.offset

    def empty(self) -> bool:
        return self.keys is None

    def is_trimmable(self) -> bool:
        return False

    @property
    def nbytes(self) -> int:
        return sum(held.nbytes for held in self._held if held is not None)


def _after(held: mx.array, new: mx.array) -> mx.array:
    """New positions behind those held, whose rows are repeated as a whole."""
    rows, copies = held.shape[0], new.shape[0] // held.shape[0]
    if copies > 1:
        shape = (copies, *held.shape)
        held = mx.broadcast_to(held[None], shape).reshape(copies * rows, *held.shape[1:])
    return mx.concatenate([held, new], axis=2)


def watching_caches(model: Any) -> list[Any]:
    """Caches that hold nothing yet: after a forward `held` tells what its layers gave them.

    A model whose layers keep nothing but keys and values makes `KVCache`s, `RotatingKVCache`s for
    layers with a window, and `CacheList`s of these where one attention keeps two.
    Raises: NoKeptForm for any other kind; whatever a model that has no caches raises.
    """
    from mlx_lm.models.cache import make_prompt_cache  # here: it takes long to import

    return [_watching(cache) for cache in make_prompt_cache(model)]


def _watching(cache: Any) -> Any:
    from mlx_lm.models import cache as caches

    kind = type(cache)
    if kind is caches.CacheList:
        return caches.CacheList(*[_watching(inner) for inner in cache.caches])
    if kind is caches.KVCache:
        return KeptCache()
    if kind is caches.RotatingKVCache and not cache.keep:
        return KeptCache(window=cache.max_size)
    raise NoKeptForm(kind.__name__)


def each(caches: list[Any]) -> Iterator[KeptCache]:
    """Every single one, those in lists of several included."""
    for cache in caches:
        if isinstance(cache, KeptCache):
            yield cache
        else:
            yield from each(list(cache.caches))


def first_positions(watched: list[Any], count: int) -> list[Any]:
    """Caches that hold the first positions of what others were given in a whole forward.

    One that was never used, of a layer that shares the keys of another, holds nothing.
    """
    return [_first(cache, count) for cache in watched]


def _first(cache: Any, count: int) -> Any:
    if not isinstance(cache, KeptCache):
        return type(cache)(*[_first(inner, count) for inner in cache.caches])
    keys, values = cache.keys, cache.values
    if keys is None or values is None:
        return KeptCache(count, window=cache.window)
    return KeptCache(count, keys[:, :, :count], values[:, :, :count], cache.window)


def holding_caches(model: Any, held: Sequence[mx.array | None]) -> list[Any]:
    """A model's caches with these keys and values, `[keys, values, keys, values, ...]`, all of the
    same number of positions; None for those of a layer that keeps none."""
    caches, rest = watching_caches(model), iter(held)
    count = next(array.shape[2] for array in held if array is not None)
    for cache in each(caches):
        cache.keys, cache.values = next(rest), next(rest)
    return first_positions(caches, count)
