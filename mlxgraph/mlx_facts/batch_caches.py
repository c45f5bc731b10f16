"""mlx-lm's caches, made to hide the padding of rows that were padded on the left.

mlx-lm fills its batch caches from lists of whole numbers.  Inside a compiled forward the padding
is an array, so the fields that hold it are set by hand.

In: one layer's cache, still empty.  Out: one that masks the padding and counts from each row's
real start.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx


class NoBatchForm(Exception):  # noqa: N818 - whoever knows the model says it to the user
    """A kind of cache that cannot hide padding."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind


def own_caches(model: Any) -> list[Any] | None:
    """A model makes its caches by `make_cache`; without it each of its `layers` takes a `KVCache`.

    Returns: None for a model that has neither.
    """
    from mlx_lm.models.cache import KVCache  # here: importing mlx-lm takes longer than all of mlx

    if hasattr(model, "make_cache"):
        return model.make_cache()
    if not hasattr(model, "layers"):
        return None
    return [KVCache() for _ in model.layers]


def hide_padding(cache: Any, padding: mx.array) -> Any:
    """A batch cache masks its first `left_padding` columns and counts positions from `offset`, row
    by row, and both may be arrays that are not evaluated; an `ArraysCache` needs the first alone.

    Args: padding: how many columns of each row do not count, (batch,).
    Raises: NoBatchForm for any other kind of cache.
    """
    from mlx_lm.models import cache as caches  # here: see above

    kind = type(cache)
    rows = [0] * padding.shape[0]
    if kind is caches.CacheList:
        return caches.CacheList(*[hide_padding(inner, padding) for inner in cache.caches])
    if kind is caches.ArraysCache:
        cache.left_padding = padding
        return cache
    if kind is caches.KVCache:
        batch: Any = caches.BatchKVCache(rows)
    elif kind is caches.RotatingKVCache and not cache.keep:
        batch = caches.BatchRotatingKVCache(cache.max_size, rows)
    else:
        raise NoBatchForm(kind.__name__)
    batch.left_padding = padding
    batch.offset = -padding
    return batch
