"""What is believed of what mlx-lm's models ask of their caches."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, QuantizedKVCache, RotatingKVCache

from mlxgraph.mlx_facts.kept_cache import (
    KeptCache,
    NoKeptForm,
    each,
    first_positions,
    watching_caches,
)
from tests import models

TOKENS = mx.array([[7, 21, 3, 18, 40, 9]])
LENGTH = 6


class Making:
    """A model that makes these caches."""

    def __init__(self, *caches):
        self.make_cache = lambda: list(caches)


def watched(module, tokens):
    caches = watching_caches(module)
    return caches, module(tokens, cache=caches)


def test_watching_changes_nothing():
    module = models.make_llama()
    caches, found = watched(module, TOKENS)
    assert models.same(found, module(TOKENS), 1e-5)
    assert [cache.keys.shape for cache in caches] == [(1, 2, LENGTH, 8)] * models.LAYERS


@pytest.mark.parametrize("start", range(1, LENGTH))
def test_a_model_gives_with_kept_caches_what_it_gives_with_its_own(start):
    module = models.make_llama()
    kept = first_positions(watched(module, TOKENS)[0], start)
    own = [KVCache() for _ in module.layers]
    module(TOKENS[:, :start], cache=own)
    other = mx.array([[4, 33, 12, 8, 30, 1]])[:, start:]
    found, wanted = module(other, cache=kept), module(other, cache=own)
    assert models.same(found, wanted, 1e-5)
    assert not models.same(found, module(other), 1e-2)
    assert models.same(module(other, cache=kept), wanted, 1e-5), "it holds more than before"
    assert [cache.offset for cache in kept] == [start] * len(kept)


def test_rows_are_repeated_as_a_whole():
    held = mx.arange(2 * 3).reshape(2, 1, 3, 1)
    cache = KeptCache(3, held, -held)
    new = mx.full((4, 1, 2, 1), 100)
    keys, values = cache.update_and_fetch(new, -new)
    assert keys[:, 0, :, 0].tolist() == [[0, 1, 2, 100, 100], [3, 4, 5, 100, 100]] * 2
    assert mx.array_equal(values, -keys) and cache.keys_and_values()[0] is keys
    assert cache.update_and_fetch(new[:2], -new[:2])[0].shape == (2, 1, 5, 1)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("asked", [None, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("as_array", [False, True])
def test_each_query_sees_the_keys_that_a_whole_forward_shows_it(window, asked, count, as_array):
    offset, numbers = 4, mx.zeros((1, 1, 4, 2))
    kept = KeptCache(offset, numbers, numbers, window)
    mine, whole = (
        create_attention_mask(
            mx.zeros((1, length, 2)), cache, window_size=width, return_array=as_array
        )
        for length, cache, width in ((count, kept, asked), (offset + count, None, asked or window))
    )
    assert seen(mine, count, offset) == seen(whole, offset + count, 0)[offset:]


def seen(mask, count, offset):
    """Which keys each query sees, however the mask says it."""
    if mask is None or isinstance(mask, str):
        assert mask == "causal" if count > 1 else True
        rows = mx.arange(offset, offset + count)[:, None]
        return (mx.arange(offset + count)[None] <= rows).tolist()
    return mx.broadcast_to(mask, (count, mask.shape[-1])).tolist()


def test_a_window_that_is_shorter_than_the_text_hides_its_beginning():
    numbers = mx.zeros((1, 1, 4, 2))
    kept = KeptCache(4, numbers, numbers, window=3)
    assert kept.make_mask(1).tolist() == [[False, False, True, True, True]]


def test_lists_of_caches_are_held_one_by_one():
    caches = watching_caches(Making(CacheList(KVCache(), RotatingKVCache(5)), KVCache()))
    assert [cache.window for cache in each(caches)] == [None, 5, None]
    numbers = mx.zeros((1, 1, 4, 2))
    caches[0][1].update_and_fetch(numbers, numbers)
    held = first_positions(caches, 2)
    assert type(held[0]) is CacheList and held[0][1].keys.shape == (1, 1, 2, 2)
    assert [cache.offset for cache in each(held)] == [2, 2, 2]


@pytest.mark.parametrize("cache", [ArraysCache(2), QuantizedKVCache(), RotatingKVCache(8, keep=4)])
def test_other_kinds_are_refused(cache):
    with pytest.raises(NoKeptForm) as error:
        watching_caches(Making(cache))
    assert error.value.kind == type(cache).__name__
