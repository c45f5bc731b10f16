"""Inputs with a state of their own: key-value caches."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

import mlxgraph as mg
from mlxgraph.errors import CompileError
from tests import models

TOKENS = [[1, 7, 3, 9, 4, 2]]


@pytest.fixture(scope="module")
def model():
    return mg.InterpretableModel(models.make_llama(True))


def test_a_cache_is_filled_once_and_chunks_equal_one_prefill(model):
    full = model.module(mx.array(TOKENS))
    cache = make_prompt_cache(model.module)
    outs = []
    for start, stop in ((0, 3), (3, 5), (5, 6)):
        with model.trace(mx.array(TOKENS)[:, start:stop], cache=cache):
            model.layers[0].output += 0.0
            outs.append(model.output.save())
        assert cache[0].offset == stop, "the census must not touch the user's cache"
    assert models.same(mx.concatenate(outs, axis=1), full, 1e-5)


def test_an_edit_at_an_absolute_position_is_the_same_in_chunks(model):
    with model.trace(TOKENS, compile=False):
        model.layers[1].output[:, 4] *= 2
        full = model.output.save()
    cache = make_prompt_cache(model.module)
    with model.trace(mx.array(TOKENS)[:, :3], cache=cache):
        model.output.save()
    with model.trace(mx.array(TOKENS)[:, 3:], cache=cache):
        model.layers[1].output[:, 1] *= 2
        out = model.output.save()
    assert models.same(out, full[:, 3:], 1e-5)
    assert not models.same(out, model.module(mx.array(TOKENS))[:, 3:], 1e-3)


def test_looking_and_activations_do_not_fill_the_cache_again(model):
    cache = make_prompt_cache(model.module)
    with model.trace(mx.array(TOKENS)[:, :3], cache=cache) as t:
        float(model.layers[0].output.sum())
        out = model.output.save()
    assert cache[0].offset == 3
    assert models.same(t.output, out, 1e-5)
    assert cache[0].offset == 3, "what is computed after the block must not run on the cache"


def test_a_stateful_input_cannot_be_compiled(model):
    cache = make_prompt_cache(model.module)
    with pytest.raises(CompileError) as caught:
        with model.trace(mx.array(TOKENS), cache=cache, compile=True):
            model.output.save()
    assert "compile=False" in str(caught.value)
    for _ in range(3):
        cache = make_prompt_cache(model.module)
        with model.trace(mx.array(TOKENS), cache=cache):
            out = model.output.save()
        assert models.same(out, model.module(mx.array(TOKENS)), 1e-5)
