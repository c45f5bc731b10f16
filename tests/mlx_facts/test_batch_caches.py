"""mlx-lm's caches hide padding that is set by hand, as an array."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_lm.models import cache as caches
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.llama import Model, ModelArgs

from mlxgraph.mlx_facts.batch_caches import NoBatchForm, hide_padding, own_caches

WIDTH, LENGTH = 6, 5


def padding() -> mx.array:
    return mx.array([2, 0])


def seen(mask: mx.array) -> list[list[bool]]:
    """Which columns the last position of each row attends to."""
    return mx.broadcast_to(mask, (2, 1, LENGTH, mask.shape[-1]))[:, 0, -1].tolist()


@pytest.fixture
def llama() -> Model:
    mx.random.seed(3)
    args = ModelArgs(
        model_type="llama", hidden_size=16, num_hidden_layers=2, intermediate_size=24,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=17,
    )  # fmt: skip
    model = Model(args)
    mx.eval(model.parameters())
    return model


@pytest.mark.parametrize("make", [caches.KVCache, lambda: caches.RotatingKVCache(8)])
def test_a_batch_cache_masks_its_left_padding_and_counts_from_each_rows_start(make) -> None:
    cache = hide_padding(make(), padding())
    assert cache.offset.tolist() == [-2, 0]
    mask = cache.make_mask(LENGTH, return_array=True)
    assert seen(mask) == [[False, False, True, True, True], [True] * LENGTH]


def test_the_padding_may_be_an_array_that_nothing_can_evaluate() -> None:
    def masked(given: mx.array) -> mx.array:
        cache = hide_padding(caches.KVCache(), given)
        return cache.make_mask(LENGTH, return_array=True)

    assert seen(mx.compile(masked)(padding())) == seen(masked(padding()))
    assert seen(mx.compile(masked)(mx.array([0, 4]))) == seen(masked(mx.array([0, 4])))


def test_a_cache_of_arrays_masks_its_left_padding() -> None:
    cache = hide_padding(caches.ArraysCache(2), padding())
    expected = [[False, False, True, True, True], [True] * LENGTH]
    assert cache.make_mask(LENGTH).tolist() == expected


def test_a_list_of_caches_is_done_one_by_one() -> None:
    both = hide_padding(caches.CacheList(caches.KVCache(), caches.ArraysCache(1)), padding())
    assert type(both) is caches.CacheList
    assert type(both[0]) is caches.BatchKVCache and both[1].left_padding.tolist() == [2, 0]


def test_what_has_no_batch_form_says_its_kind() -> None:
    for cache in (caches.RotatingKVCache(8, keep=2), caches.QuantizedKVCache(), object()):
        with pytest.raises(NoBatchForm, match=type(cache).__name__):
            hide_padding(cache, padding())
    with pytest.raises(NoBatchForm, match="QuantizedKVCache"):
        hide_padding(caches.CacheList(caches.KVCache(), caches.QuantizedKVCache()), padding())


def test_a_model_makes_its_own_caches_or_takes_one_for_each_layer(llama: Model) -> None:
    assert [type(c) for c in own_caches(llama)] == [caches.KVCache] * 2

    class Maker:
        def make_cache(self):
            return ["mine"]

    assert own_caches(Maker()) == ["mine"] and own_caches(object()) is None


def test_a_padded_row_equals_its_single_run(llama: Model) -> None:
    row = mx.array([[3, 1, 4]])
    batch = mx.array([[0, 0, 3, 1, 4], [2, 7, 1, 8, 2]])

    def logits(given: mx.array) -> mx.array:
        return llama(batch, cache=[hide_padding(c, given) for c in own_caches(llama)])

    alone = llama(row)
    for forward in (logits, mx.compile(logits)):
        assert mx.allclose(forward(padding())[0, 2:], alone[0], atol=1e-5)
        assert not mx.allclose(forward(mx.array([0, 0]))[0, 2:], alone[0], atol=1e-3)


def test_a_mask_is_asked_of_the_first_cache() -> None:
    cache = hide_padding(caches.KVCache(), padding())
    mask = create_attention_mask(mx.zeros((2, LENGTH, WIDTH)), cache)
    assert seen(mask) == seen(cache.make_mask(LENGTH, return_array=True))
