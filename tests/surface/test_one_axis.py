"""Whole numbers in an array of one axis: token ids to a model of texts, and else what they are."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from tests import models

IDS = [1, 2, 3, 4]


class Sized(nn.Module):
    """No tokenizer, no embedding, and an output that depends on the number of axes."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 2)

    def __call__(self, x, scale=1):
        return self.l(x * scale) + x.shape[0]


class Users(nn.Module):
    """Rows of an embedding by number: a batch of users, no text."""

    def __init__(self):
        super().__init__()
        self.l = nn.Embedding(10, 4)

    def __call__(self, x, scale=1):
        return self.l(x) * x.shape[0]


class Rows(nn.Module):
    def __call__(self, x, factor=1):
        batch, length = x.shape
        return x * (batch // factor)


class Branching(Sized):
    def __call__(self, x, scale=1):
        return super().__call__(x * 2 if x[0].item() > 0 else x, scale)


@pytest.mark.parametrize("kind", [np.array, mx.array, lambda v: mx.array(v, mx.uint8)])
@pytest.mark.parametrize("make", [Sized, Users, Branching])
def test_a_model_that_takes_them_as_they_are_is_given_them_so(make, kind):
    model = models.made(make)
    truth, given = model.module(mx.array(IDS)), kind(IDS)
    read = mg.read("__model_output__", name="o")
    fast = model.compile(read) if make is not Branching else None

    def traced(**options):
        with model.trace(given, **options) as t:
            out = model.output.save()
        assert models.same(t.output, truth, 1e-6)
        return out

    def invoked():
        with model.trace() as t, t.invoke(given):
            return model.output.save()

    for _ in range(3):
        found = [traced(), traced(compile=False), model(given), model.run(read, given)["o"]]
        found += [model.pass_(lambda m: m.output)(given), model.edit(read)(given), invoked()]
        found += [fast(given)["o"]] if fast else []
        assert all(models.same(one, truth, 1e-6) for one in found)
    changed = model.edit(mg.edit("l", iv.scale(2.0)))(given)
    assert changed.shape == truth.shape and not models.same(changed, truth, 1e-3)
    if make is Sized:
        with model.trace(given, scale=3):
            scaled = model.output.save()
        assert models.same(scaled, model.module(mx.array(IDS), scale=3), 1e-6)


@pytest.mark.parametrize("kind", [np.array, mx.array, lambda v: mx.array(v, mx.uint16)])
def test_to_a_model_of_texts_they_are_one_text(llama, kind):
    truth = llama(mx.array([IDS]))
    for _ in range(3):
        with llama.trace(kind(IDS)) as t:
            out = llama.output.save()
        assert models.same(out, truth, 1e-5) and t.lengths == [4]
        assert models.same(llama(kind(IDS)), truth, 1e-5)


def test_a_tokenizer_is_enough_to_know():
    class Scores(nn.Module):  # would run on one axis as well
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(1014, 8)

        def __call__(self, x):
            return self.table(x)

    model = mg.InterpretableModel(Scores(), tokenizer=mg.tiny().tokenizer)
    assert model(mx.array(IDS)).shape == (1, 4, 8)


def test_what_runs_neither_way_fails_as_a_text_does():
    model = models.made(Rows)
    for given in (mx.array(IDS), mx.array([IDS])):
        with pytest.raises(TypeError, match="unsupported operand"):
            with model.trace(given, factor="a"):
                model.output.save()
    with model.trace(mx.array(IDS), factor=2):
        assert model.output.save().shape == (1, 4)


def test_an_exchanged_module_is_asked_anew():
    model = models.made(Sized)
    assert model(mx.array(IDS)).shape == (2,)
    model.module.l = Rows()
    assert model(mx.array(IDS)).shape == (1, 4)
