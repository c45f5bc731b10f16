"""Maps of a model that gives one prediction of a whole input, and none at each position."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import UnembeddingError

ONE, OTHER = mx.array([[1, 2, 3, 4]]), mx.array([[1, 5, 3, 4]])


class Mixing(nn.Module):
    """Positions that see each other."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def __call__(self, x):
        return x + mx.tanh(self.linear(x + x.mean(axis=1, keepdims=True)))


class Classifier(nn.Module):
    """Token ids in; logits of classes out, (batch, classes)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.layers = [Mixing() for _ in range(2)]
        self.head = nn.Linear(8, 5)

    def __call__(self, ids, patch=None):
        x = self.embed(ids)
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if patch is not None and patch[0] == number:
                x = patch[1](x)
        return self.head(x.mean(axis=1))


@pytest.fixture(scope="module")
def module():
    mx.random.seed(0)
    made = Classifier()
    mx.eval(made.parameters())
    return made


def total(logits):
    """Of all classes: what a part of the vector would not give."""
    return mx.sum(mx.square(logits))


def patched(module, layer, position, by=None):
    """The logits with a position of a layer's output moved to the other input's, or by a part."""
    kept = []
    module(ONE, (layer, lambda x: kept.append(x) or x))

    def put(x):
        x = mx.array(x)
        there, gone = x[:, position], kept[0][:, position]
        x[:, position] = gone if by is None else there + by * (gone - there)
        return x

    return module(OTHER, (layer, put))[0]


def each(of):
    return np.array([[float(of(layer, position)) for position in range(4)] for layer in range(2)])


def test_maps_are_of_the_whole_prediction(module):
    model = mg.InterpretableModel(module)
    given = {"component": "output", "positions": "all", "normalize": False}
    found = model.activation_patching(ONE, OTHER, metric=total, **given)
    np.testing.assert_allclose(found, each(lambda *at: total(patched(module, *at))), rtol=1e-5)
    assert found.attrs["clean"] == pytest.approx(total(module(ONE)[0]).item(), rel=1e-5)
    far = model.activation_patching(ONE, OTHER, metric="l2", **given)
    wanted = each(lambda *at: mx.linalg.norm(patched(module, *at) - module(ONE)[0]))
    np.testing.assert_allclose(far, wanted, rtol=1e-4)

    def slope(*at):
        up, down = (total(patched(module, *at, by)) for by in (0.01, -0.01))
        return (up - down) / 0.02

    for method in (model.attribution_patching, model.integrated_gradients):
        estimate = method(ONE, OTHER, metric=total, **given)
        np.testing.assert_allclose(estimate, each(slope), atol=0.3 * np.abs(each(slope)).max())
        assert estimate.attrs["corrupted"] == pytest.approx(found.attrs["corrupted"], rel=1e-5)
    estimate = model.attribution_patching(ONE, OTHER, metric=total, **given)
    np.testing.assert_allclose(estimate, each(slope), atol=1e-3)


def test_what_asks_for_positions_says_that_there_are_none(module):
    model = mg.InterpretableModel(module)
    for asked in (
        lambda: model.logit_lens(ONE),
        lambda: model.direct_logit_attribution(ONE),
        lambda: model.direct_logit_attribution(ONE, 2),
    ):
        with pytest.raises(UnembeddingError, match="at each position"):
            asked()
