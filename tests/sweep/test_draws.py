"""Variants that draw random numbers, or take gradients, run one by one in the loop's order."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from tests.models import VOCABULARY, make_llama
from tests.sweep.alike import furthest, loop, moved, off, ways

X = mx.arange(10)[None] * 7 % VOCABULARY


@pytest.fixture(scope="module")
def model():
    return mg.InterpretableModel(make_llama(False, layers=4))


def noisy(value):
    return value + mx.random.normal(value.shape)


def halved(value):
    return value * 0.5


def by_function(model, layer, function):
    with model.trace(X) as t:
        value = model.layers[layer].output
        value[:, -1] = mg.apply(function, value[:, -1])
        model.output[:, -1].save("l")
    return t.graph


def by_noise(model, layer):
    with model.trace(X) as t:
        model.layers[layer].output[:, -1] += 0.3 * mx.random.normal((1, 32))
        model.output[:, -1].save("l")
    return t.graph


def by_gradient(model, layer):
    with model.trace(X) as t:
        value = model.layers[layer].output
        t.grad(model.output[:, -1, 3].sum(), value).save("g")
    return t.graph


def plain(model, layer):
    return moved(model, lambda m: m.layers[layer].output, X, (slice(None), -1))


MIXES = {
    "recorded draws": lambda m: [by_noise(m, 2), plain(m, 1), by_noise(m, 0), plain(m, 3)],
    "unrecorded draws": lambda m: [by_function(m, k, noisy) for k in (3, 1, 2)],
    "both": lambda m: [by_function(m, 3, noisy), by_noise(m, 0), by_function(m, 1, noisy)],
    "both, and others": lambda m: [
        plain(m, 2), by_function(m, 3, noisy), by_noise(m, 0), by_function(m, 2, halved),
        plain(m, 0), by_gradient(m, 1), by_function(m, 1, noisy), by_noise(m, 1), plain(m, 3),
    ],
    "one of a kind": lambda m: [by_noise(m, 1), by_function(m, 2, noisy), plain(m, 3)],
}  # fmt: skip


@pytest.mark.parametrize("batch_size", [None, 1, 2])
@pytest.mark.parametrize("name", MIXES)
@pytest.mark.thin(4)
def test_draws_come_in_the_order_of_a_loop(model, name, batch_size):
    graphs = MIXES[name](model)
    mx.random.seed(11)
    want = loop(model, X, graphs)
    after = mx.random.normal((3,))
    mx.random.seed(11)
    swept = model.sweep(X, graphs, batch_size=batch_size)
    assert off(mx.random.normal((3,)), after) == 0
    assert furthest(swept, want) < 1
    mx.random.seed(12)
    assert furthest(model.sweep(X, graphs, batch_size=batch_size), want) > 100


def test_functions_that_draw_nothing_share_their_forwards(model):
    graphs = [by_function(model, k, halved) for k in range(1, 4)]
    swept = model.sweep(X, graphs)
    assert ways(swept) == [("grown", 0)]
    assert furthest(swept, loop(model, X, graphs)) < 1


def test_a_sweep_that_draws_nothing_leaves_the_random_state(model):
    mx.random.seed(4)
    key = mx.random.state[0].tolist()
    model.sweep(X, [plain(model, 1), plain(model, 2), by_gradient(model, 2)], metric="kl")
    model.sweep(X[:, :7], [plain(model, 1), plain(model, 2)])
    assert mx.random.state[0].tolist() == key


def test_gradients_among_others(model):
    graphs = [plain(model, 1), by_gradient(model, 1), plain(model, 2), by_gradient(model, 2)]
    swept = model.sweep(X, graphs)
    assert furthest(swept, loop(model, X, graphs)) < 1
    assert off(swept[1]["g"], swept[3]["g"]) > 1e-3


def test_noise_of_interventions_is_drawn_anew_in_each_variant(model):
    graph = mg.edit("layers.1", iv.noise(0.5)) >> mg.read("layers.2", name="h")
    swept = model.sweep(X, [graph, graph])
    assert off(swept[0]["h"], swept[1]["h"]) > 1e-2
