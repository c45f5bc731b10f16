"""An edited model called on arrays gives its output, whatever its edits save beside it."""

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.errors import MissingParamError
from tests import models

X = mx.arange(48, dtype=mx.float32).reshape(2, 4, 6) / 24 - 1


@pytest.fixture(scope="module")
def model():
    return models.made(models.Chain)


def recorded(model):
    with model.trace(X) as t:
        model.layers[0].output *= 0.5
        model.layers[1].output.save("h")
        model.output.save()
        model.output.save("again")
    return t.graph


def deferred(model):
    return mg.edit("layers.0", lambda h: h * 0.5) >> mg.read("layers.1", name="h")


def both(model):
    return recorded(model) >> mg.read("layers.*")


def within(model):
    with model.edit(X) as edited:
        edited.layers[0].output *= 0.5
        edited.layers[1].output.save("h")
    return edited.edits


def halved(module):
    """The forward with half of the first layer's output, by hand."""
    h = X + mx.tanh(module.layers[0](X) * 0.5)
    for layer in module.layers[1:]:
        h = h + mx.tanh(layer(h))
    return h


@pytest.mark.parametrize("make", [recorded, deferred, both, within])
def test_an_edited_model_gives_its_output_whatever_its_edits_save(model, make):
    edited, truth = model.edit(make(model)), halved(model.module)
    for _ in range(3):
        assert models.same(edited(X), truth, 1e-5)
    with edited.trace(X) as t:
        out = edited.output.save()
    assert models.same(out, truth, 1e-5) and any("h" in name for name in t.saved_values)


def test_saves_alone_change_nothing(model):
    reading = model.edit(mg.read("layers.1", name="h"))
    assert models.same(reading(X), model.module(X), 1e-5)


def test_params_of_saves_alone_may_be_left_out(model):
    with model.trace(X) as t:
        model.layers[0].output *= mg.param("alpha")
        (model.layers[1].output * mg.param("beta")).save("h")
    edited = model.edit(t.graph)
    assert models.same(edited(X, alpha=0.5), halved(model.module), 1e-5)
    assert models.same(edited(X, alpha=0.5, beta=1.0), halved(model.module), 1e-5)
    with pytest.raises(MissingParamError):
        edited(X, beta=1.0)
