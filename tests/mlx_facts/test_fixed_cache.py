"""What is believed of mlx-lm's plain cache, and of models that are given another in its stead."""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache

from mlxgraph.mlx_facts.fixed_cache import FixedCache, advance, has_room
from tests import models

TOKENS = [7, 21, 3, 18, 40]


def filled(module, tokens):
    caches = [KVCache() for _ in module.layers]
    module(mx.array([tokens]), cache=caches)
    return caches


def test_a_cache_has_room_until_its_buffer_is_full():
    cache = KVCache()
    assert not has_room(cache)
    cache.update_and_fetch(mx.ones((1, 2, 5, 4)), mx.ones((1, 2, 5, 4)))
    assert cache.keys.shape == (1, 2, 256, 4) and has_room(cache)
    cache.update_and_fetch(mx.ones((1, 2, 251, 4)), mx.ones((1, 2, 251, 4)))
    assert cache.offset == 256 and not has_room(cache)
    assert not has_room(RotatingKVCache(8))


def test_a_model_gives_with_fixed_caches_what_it_gives_with_plain_ones():
    module = models.make_llama()
    token = mx.array([[9]])
    plain = filled(module, TOKENS)
    offset = mx.array(len(TOKENS), mx.int32)
    fixed = [FixedCache(cache.keys, cache.values, offset) for cache in plain]
    found = module(token, cache=fixed)
    wanted = module(token, cache=plain)
    assert models.same(found, wanted, 1e-5)
    assert not models.same(found, module(token), 1e-2)
    for one, other in zip(fixed, plain, strict=True):
        assert mx.allclose(one.keys[:, :, :6], other.keys[:, :, :6])
        assert one.offset.item() == other.offset == 6


def test_it_can_be_followed_by_a_compilation_and_its_cache_goes_on():
    module = models.make_llama()
    caches = filled(module, TOKENS)

    def step(token, offset, keys, values):
        fixed = [FixedCache(k, v, offset) for k, v in zip(keys, values, strict=True)]
        return module(token, cache=fixed), [c.keys for c in fixed], [c.values for c in fixed]

    compiled = mx.compile(step)
    text = list(TOKENS)
    for token in (9, 4, 33):
        offset = mx.array(caches[0].offset, mx.int32)
        keys, values = [c.keys for c in caches], [c.values for c in caches]
        found, keys, values = compiled(mx.array([[token]]), offset, keys, values)
        for cache, k, v in zip(caches, keys, values, strict=True):
            advance(cache, k, v)
        text.append(token)
        assert models.same(found[0, -1], module(mx.array([text]))[0, -1], 1e-4)
    assert caches[0].offset == len(text)


def test_the_mask_is_that_of_mlx_lm_with_the_rest_of_the_buffer_hidden():
    cache = FixedCache(mx.zeros((1, 1, 16, 4)), mx.zeros((1, 1, 16, 4)), mx.array(5))
    mask = create_attention_mask(mx.zeros((1, 1, 4)), cache)
    assert mask.tolist() == [[True] * 6 + [False] * 10]
    window = create_attention_mask(mx.zeros((1, 1, 4)), cache, window_size=3)
    assert window.tolist() == [[False] * 3 + [True] * 3 + [False] * 10]
