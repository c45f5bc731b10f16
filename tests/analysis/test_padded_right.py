"""Batches of several lengths run without a mask only where the model at hand was tried without."""

from __future__ import annotations

import contextlib

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.analysis import rows_of
from mlxgraph.errors import InputError
from tests.models import VOCABULARY, make_llama, same

ROWS = [[7, 21, 3, 8, 40, 1, 2], [5, 6], [9, 8, 7, 4]]


class Mixed(nn.Module):
    """Embeddings, and one layer that mixes positions or rows in some way."""

    class Mixer(nn.Module):
        def __init__(self, mix):
            super().__init__()
            self._mix = mix

        def __call__(self, x):
            return x + self._mix(x)

    def __init__(self, mix):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.layers = [self.Mixer(mix)]

    def __call__(self, tokens):
        return self.layers[0](self.embed(tokens))


def before(x):
    """What a causal model does: each position gets the sum of those before it."""
    return mx.cumsum(x, axis=1)


def after(x):
    return mx.cumsum(x[:, ::-1], axis=1)[:, ::-1]


def next_one(x):
    return mx.pad(x[:, 1:], [(0, 0), (0, 1), (0, 0)])


def all_of_them(x):
    """By its own length, and not by what stands there."""
    return before(x) / x.shape[1]


def the_best_of_all_rows(x):
    """Rows compete: what is padding in one takes a place from another."""
    size = x.abs().sum(-1)
    return before(x) * (size >= size.mean())[..., None]


def at_random(x):
    return before(x) * mx.random.bernoulli(0.9, x.shape)


@pytest.fixture
def said(monkeypatch):
    """What was found out of each model."""
    found, real = [], rows_of.needs_no_mask
    monkeypatch.setattr(
        rows_of, "needs_no_mask", lambda *args: found.append(real(*args)) or found[-1]
    )
    return found


def collected(model):
    return mg.batch_get_activations(model, ROWS, [0], positions="all", batch_size=3)["layer_0"]


@pytest.mark.parametrize(
    "mix", [before, after, next_one, all_of_them, the_best_of_all_rows, at_random]
)
def test_only_a_causal_model_runs_without_a_mask(said, mix):
    mx.random.seed(3)  # rows that compete do so in most models, and not in each
    model = mg.InterpretableModel(Mixed(mix))
    if mix is before:  # the control
        for row, found in zip(ROWS, collected(model), strict=True):
            assert same(found, mix(e := model.module.embed(mx.array([row])))[0] + e[0], 1e-5)
    else:
        with contextlib.suppress(InputError):  # that no batch of several lengths can be right
            collected(model)
    assert said == [mix is before]


def test_it_is_asked_once_of_a_collection_and_not_where_lengths_are_equal(said, tied):
    asked = {"sites": "layers.*.mlp", "positions": "all", "batch_size": 2}
    mg.batch_get_activations(tied, [[1, 2, 3], [4, 5, 6]], **asked)
    assert said == []
    mg.batch_get_activations(tied, ROWS + ROWS, **{**asked, "batch_size": 4})
    assert said == [True]


def test_edits_count_positions_from_the_end_of_each_prompt(said):
    plain = mg.InterpretableModel(make_llama())
    model = plain.edit(mg.edit("layers.0", iv.scale(3.0), positions=-1))
    found = collected(model)
    for row, one in zip(ROWS, found, strict=True):
        alone = mg.get_activations(model, row, [0], list(range(len(row))))["layer_0"][0]
        assert same(one, alone, 1e-5)
    assert not same(found[1], collected(plain)[1], 1e-2)
    assert said == [False, True]
