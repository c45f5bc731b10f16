"""`model(x)` while a block is open: the model's answer, whoever's block it is."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError
from tests import models

X = mx.random.normal((1, 3, 4), key=mx.random.key(0))
TEXT = "The capital of France is"
DOUBLE = mg.edit("layers.0", lambda h: 2 * h)


def make():
    return mg.InterpretableModel(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))


@pytest.fixture
def model():
    return make()


def whole(value):
    """A value as a plain array, in a block or outside."""
    return mx.array(np.array(value))


CALLS = {
    "the model": lambda m: m,
    "an edited one": lambda m: m.edit(DOUBLE),
    "another": lambda m: make(),
    "another, edited": lambda m: make().edit(DOUBLE),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_plain_array_in_a_block(model, call):
    other = CALLS[call](model)
    expected = other(X)
    with model.trace(X):
        model.layers[0].output.save()
        seen = whole(other(X))
        inner = whole(model.layers[0](X))
    assert models.same(seen, expected, 1e-5)
    assert models.same(inner, model.module.layers[0](X), 1e-5)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_recorded_value_in_a_block(model, call, compile):
    other = CALLS[call](model)
    for x in (X, X + 1):
        with model.trace(x, compile=compile):
            model.layers[0].output *= 3
            h = model.layers[0].output
            kept, given = other(h).save(), h.save()
        assert models.same(kept, other(given), 1e-5)


def test_what_the_edits_change_is_there():
    model = make()
    assert not models.same(model(X), model.edit(DOUBLE)(X), 1e-3)


def test_an_edited_model_in_an_invoke_in_an_edit_and_in_a_function(model):
    edited = model.edit(DOUBLE)
    expected = edited(X)
    with model.trace() as t, t.invoke(X):
        assert models.same(edited(X), expected, 1e-5)
        model.output.save()
    with model.edit(None, X) as doubled:
        doubled.layers[0].output += edited(X).sum()
    assert models.same(doubled(X), nn.tanh(model.module.layers[0](X) + expected.sum()), 1e-5)
    for answer in (model, edited):
        with model.trace(X):
            out = mg.apply(lambda h, answer=answer: answer(h), model.layers[0].input).save()
            seen = whole(mg.apply(lambda h, answer=answer: answer(X) + 0 * h, model.output))
        assert models.same(out, answer(X), 1e-5)
        assert models.same(seen, answer(X), 1e-5)


GIVEN = {
    "a text": TEXT,
    "a list of one": [TEXT],
    "ids": [1, 2, 3],
    "rows": [[1, 2, 3], [3, 2, 1]],
    "one axis": mx.array([1, 2, 3]),
    "numpy": np.array([[1, 2, 3]]),
}


@pytest.mark.parametrize("given", GIVEN)
def test_what_a_trace_takes_in_a_block(tiny, given):
    value = GIVEN[given]
    expected = tiny(value)
    with tiny.trace(TEXT):
        kept = tiny(value).save()
        last = tiny(value)[:, -1].save()
    assert models.same(kept, expected, 1e-4)
    assert models.same(last, expected[:, -1], 1e-4)
    edited, other = tiny.edit(mg.edit("layers.1", lambda h: 2 * h)), mg.tiny()
    with tiny.trace(TEXT):
        seen, beside = edited(value), other(value)
    assert models.same(seen, edited(value), 1e-4) and models.same(beside, expected, 1e-4)


def test_texts_of_several_lengths_in_a_block_are_run_at_once(tiny):
    texts = [TEXT, "Paris"]
    with tiny.trace(TEXT):
        seen = tiny(texts)
    assert models.same(seen, tiny(texts), 1e-4)


def test_no_input_in_a_block(tiny):
    with pytest.raises(InputError), tiny.trace(TEXT):
        tiny(None)


def test_what_another_model_draws_in_a_block_is_its_own(model):
    noisy = mg.InterpretableModel(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)))
    noisy.module.train()
    mx.random.seed(3)
    expected = noisy(X)
    mx.random.seed(3)
    with model.trace(X):
        seen = noisy(X)
    assert models.same(seen, expected, 0)
