"""Inputs with a state of their own: key-value caches."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
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


# -- law 28: a cache is left as the bare forward leaves it, whatever is saved ---------------------


class Attention(nn.Module):
    """The mean of all it has seen; what it has seen is kept in a cache of some kind."""

    def __init__(self, kind, number):
        super().__init__()
        self.kind, self.number = kind, number
        self.proj = nn.Linear(4, 4)

    def __call__(self, x, cache):
        k = self.proj(x)
        if cache is None:
            return k.mean(1, keepdims=True) + x
        if self.kind == "dict":
            seen = cache.get(self.number)
            k = k if seen is None else mx.concatenate([seen, k], axis=1)
            cache[self.number] = k
        elif self.kind == "appended":
            if len(cache) <= self.number:
                cache.append(k)
            else:
                k = mx.concatenate([cache[self.number], k], axis=1)
                cache[self.number] = k
        elif self.kind == "nested":
            mine = cache[self.number]
            if mine.get("k") is not None:
                k = mx.concatenate([mine["k"], k], axis=1)
            mine["k"], mine["n"] = k, k.shape[1]
        elif self.kind == "in place":
            start = cache["n"][self.number]
            cache["k"][self.number][:, start : start + k.shape[1]] = k
            cache["n"][self.number] = start + k.shape[1]
            k = cache["k"][self.number][:, : start + k.shape[1]]
        elif self.kind == "arrays in place":
            cache[self.number][:, : k.shape[1]] += k
            k = cache[self.number] * 1
        return x + k.mean(1, keepdims=True)


class Cached(nn.Module):
    """Three layers that keep what they have seen in a cache that they are given."""

    def __init__(self, kind):
        super().__init__()
        self.layers = [Attention(kind, number) for number in range(3)]

    def __call__(self, x, cache=None):
        for layer in self.layers:
            x = layer(x, cache)
        return x


KINDS = {
    "dict": dict,
    "appended": list,
    "nested": lambda: [{} for _ in range(3)],
    "in place": lambda: {"k": [mx.zeros((1, 8, 4)) for _ in range(3)], "n": [0, 0, 0]},
    "arrays in place": lambda: [mx.zeros((1, 8, 4)) for _ in range(3)],
}
SAVED = {
    "the first layer": lambda m: m.layers[0].output.save(),
    "the second layer's input": lambda m: m.layers[1].input.save(),
    "the output": lambda m: m.output.save(),
    "nothing": lambda m: None,
    "a look": lambda m: m.layers[1].output.tolist(),
    "a constant": lambda m: (m.layers[0].output * 0).save(),
}


def contents(cache):
    return [v.tolist() if isinstance(v, mx.array) else v for _, v in tree_flatten(cache)]


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compile", ["auto", False])
@pytest.mark.thin(6)
def test_containers_are_left_as_the_bare_forward_leaves_them(kind, saved, compile):
    module = Cached(kind)
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    ours, theirs = KINDS[kind](), KINDS[kind]()
    for step in range(3):
        x = mx.random.normal((1, 2, 4), key=mx.random.key(step))
        expected = module(x, cache=theirs)
        with model.trace(x, cache=ours, compile=compile) as t:
            SAVED[saved](model)
        for mine, other in zip(contents(ours), contents(theirs), strict=True):
            assert models.same(mx.array(mine), mx.array(other), 1e-5)
        assert models.same(t.output, expected, 1e-5)
        assert len(contents(ours)) == len(contents(theirs)) > 0


@pytest.mark.parametrize("saved", SAVED)
def test_every_layers_cache_is_advanced_though_an_early_layer_is_saved(model, saved):
    ours, theirs = make_prompt_cache(model.module), make_prompt_cache(model.module)
    for start, stop in [(0, 3), (3, 4), (4, 6)]:
        tokens = mx.array(TOKENS)[:, start:stop]
        model.module(tokens, cache=theirs)
        with model.trace(tokens, cache=ours):
            SAVED[saved](model)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.offset == other.offset == stop
            for one, two in zip(mine.state[:2], other.state[:2], strict=True):
                assert models.same(one, two, 1e-5)


def test_edits_after_what_is_saved_are_felt_by_the_cache(model):
    ours, theirs = make_prompt_cache(model.module), make_prompt_cache(model.module)
    tokens = mx.array(TOKENS)
    with model.trace(tokens, cache=theirs):
        model.layers[1].output[..., :8] *= 3
        model.output.save()
    with model.trace(tokens, cache=ours):
        model.layers[1].output[..., :8] *= 3
        model.layers[0].output.save()
    assert models.same(ours[2].state[0], theirs[2].state[0], 1e-5)
    bare = make_prompt_cache(model.module)
    model.module(tokens, cache=bare)
    assert not models.same(ours[2].state[0], bare[2].state[0], 1e-3)


def test_a_graph_run_with_a_cache_advances_it(model):
    with model.trace(mx.array(TOKENS)[:, :2]) as t:
        model.layers[0].output.save("first")
    cache = make_prompt_cache(model.module)
    model.run(t.graph, mx.array(TOKENS)[:, :2], cache=cache)
    assert [layer.offset for layer in cache] == [2] * len(cache)


def test_lists_and_dicts_that_a_forward_leaves_alone_are_compiled():
    class Batch(nn.Module):
        """Inputs in a dict of lists."""

        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def __call__(self, batch):
            return self.inner(batch["x"][0]) + batch["x"][1]

    model = mg.InterpretableModel(Batch())
    batch = {"x": [mx.ones((2, 4)), mx.zeros((2, 4))]}
    with model.trace(batch, compile=True):
        model.output.save()
    assert model.compilations == 1
