"""ActivationCache: what one run gave, under every form of a site's name."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxgraph import ActivationCache, collect_activations
from mlxgraph.errors import UnknownNameError, UnknownSiteError
from tests.models import Mixed, same


def test_it_holds_what_the_trace_gives(llama, tokens):
    cache = collect_activations(llama, tokens, layers=["layers.1", "layers.2.attn"])
    with llama.trace(tokens) as trace:
        pass
    assert list(cache.keys()) == ["layers.1", "layers.2.attn"] == list(cache)
    assert len(cache) == len(cache.activations) == 2
    assert same(cache.get("layers.1"), trace.activations["layers.1"], 1e-6)
    assert same(cache["layers.2.attn"], trace.activations["layers.2.self_attn"], 1e-6)


@pytest.mark.parametrize(
    "name", ["layers.1", "model.layers.1", "model.model.layers.1", "layers.1.output"]
)
def test_every_form_of_a_name_finds_it(llama, tokens, name):
    cache = collect_activations(llama, tokens, layers=["layers.1"])
    assert name in cache and same(cache.get(name), cache.activations["layers.1"])
    assert "layers.2" not in cache and "no.such.thing" not in cache


def test_without_names_it_holds_every_module(llama, tokens):
    cache = collect_activations(llama, tokens)
    with llama.trace(tokens) as trace:
        pass
    assert list(cache) == list(trace.activations)
    assert "model.model.layers.0.mlp.up_proj" in cache and "__model_output__" in cache
    assert same(cache.get("__model_output__"), trace.output, 1e-6)


def test_text_leaves_its_tokens_in_the_metadata(tiny):
    cache = collect_activations(tiny, ["The cat", "Hello"], layers=["layers.3"])
    assert cache.metadata["lengths"] == [3, 2]
    assert cache.metadata["token_strings"][1] == ["<|begin_of_text|>", "Hello"]
    assert cache.metadata["inputs"] == ["The cat", "Hello"]


def test_a_module_that_returns_several_arrays_keeps_them_all():
    import mlxgraph as mg

    model = mg.InterpretableModel(Mixed())
    x = mx.ones((2, 6))
    cache = collect_activations(model, (x, x), layers=["parts.left"])
    left = cache.get("parts.left")
    assert isinstance(left, tuple) and [part.shape for part in left] == [(2, 6), (2, 6)]


def test_what_is_not_there_raises(llama, tokens):
    with pytest.raises(UnknownSiteError, match="layers.1"):
        collect_activations(llama, tokens, layers=["layer.1"])
    cache = collect_activations(llama, tokens, layers=["layers.1"])
    with pytest.raises(UnknownNameError, match="There is: layers.1|Did you mean 'layers.1'"):
        cache.get("layers.2")
    with pytest.raises(KeyError):
        cache["layers.0"]


def test_it_can_be_made_by_hand():
    cache = ActivationCache({"a": mx.ones((2,))})
    assert "a" in cache and "b" not in cache and cache.metadata == {}
    assert same(cache.get("a"), mx.ones((2,)))
