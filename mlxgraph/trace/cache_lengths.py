"""How many tokens a cache of mlx-lm's holds: that is where a forward's positions begin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx


def length_of(cache: Any) -> int | None:
    """The number of tokens that a prompt cache holds; None where it does not say, or says it for
    each of several texts."""
    offsets = [offset for one in cache for offset in _offsets(one)]
    counts = [offset for offset in offsets if isinstance(offset, int)]
    if len(counts) < len(offsets):
        return None
    if counts:
        return max(counts)
    return 0 if all(_is_empty(one) for one in cache) else None


def rows_of_cache(cache: Any) -> list[int] | None:
    """For each of several texts the number of its tokens that a batch's cache holds; None where it
    does not say.  One that is padded on the left may begin before its first token."""
    for one in cache:
        for offset in _offsets(one):
            if isinstance(offset, mx.array) and offset.ndim == 1:
                return [int(number) for number in offset.tolist()]
    return None


def _offsets(cache: Any) -> Iterator[Any]:
    for inner in getattr(cache, "caches", ()):
        yield from _offsets(inner)
    offset = getattr(cache, "offset", None)
    if isinstance(offset, (int, mx.array)):
        yield offset


def _is_empty(cache: Any) -> bool:
    empty = getattr(cache, "empty", None)
    return bool(empty()) if callable(empty) else False
