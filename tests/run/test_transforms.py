"""R14: a trace inside MLX's own transformations."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from tests import models


@pytest.fixture
def v():
    return mx.array([0.5, -1.0, 0.25, 2.0, 0.0, -0.5])


def by_hand(module, x, v, k=1):
    for number, layer in enumerate(module.layers):
        y = layer(x)
        x = x + mx.tanh(y + v if number == k else y)
    return x


def steered(model, x, v, compile=False):
    with model.trace(x, compile=compile):
        model.layers[1].output += v
        out = model.output.save()
    return out


@pytest.mark.parametrize("compile", [False, True])
def test_gradients_flow_through_a_trace(chain, x, v, compile):
    def loss(v):
        return (steered(chain, x, v, compile) ** 2).sum()

    def plain(v):
        return (by_hand(chain.module, x, v) ** 2).sum()

    assert models.same(mx.grad(loss)(v), mx.grad(plain)(v), 1e-4)
    value, gradient = mx.value_and_grad(loss)(v)
    assert models.same(value, plain(v), 1e-4) and models.same(gradient, mx.grad(plain)(v), 1e-4)
    assert float(mx.abs(gradient).max()) > 0.01


def test_gradients_agree_with_finite_differences(chain, x, v):
    def loss(v):
        return steered(chain, x, v).sum()

    gradient = np.array(mx.grad(loss)(v))
    for k in range(6):
        step = mx.zeros((6,))
        step[k] = 1e-2
        slope = (loss(v + step).item() - loss(v - step).item()) / 2e-2
        assert gradient[k] == pytest.approx(slope, abs=2e-2)


def test_gradients_of_the_input(chain, x):
    def loss(x):
        with chain.trace(x, compile=False):
            chain.layers[0].output[:, 1:] *= 2
            h = chain.layers[2].output.save()
        return h.sum()

    def plain(x):
        y = chain.module.layers[0](x)
        y[:, 1:] *= 2
        s = x + mx.tanh(y)
        s = s + mx.tanh(chain.module.layers[1](s))
        return chain.module.layers[2](s).sum()

    assert models.same(mx.grad(loss)(x), mx.grad(plain)(x), 1e-5)


def test_gradients_of_the_weights(chain, x):
    def loss(module, x):
        with chain.trace(x, compile=False):
            chain.layers[0].output *= 2
            out = chain.output.save()
        return (out**2).mean()

    def plain(module, x):
        s = x
        for k, layer in enumerate(module.layers):
            y = layer(s)
            s = s + mx.tanh(y * 2 if k == 0 else y)
        return (s**2).mean()

    value, ours = nn.value_and_grad(chain.module, loss)(chain.module, x)
    expected, theirs = nn.value_and_grad(chain.module, plain)(chain.module, x)
    assert models.same(value, expected, 1e-5)
    ours, theirs = (dict(nn.utils.tree_flatten(g)) for g in (ours, theirs))
    assert all(models.same(ours[name], theirs[name], 1e-5) for name in theirs)
    assert max(float(mx.abs(g).max()) for g in ours.values()) > 1e-3


def test_gradients_inside_a_block_of_saved_arrays(chain, x, v):
    with chain.trace(x):
        plain = mx.grad(lambda v: (v * v).sum())(v)
        chain.layers[0].output += plain
        h = chain.layers[0].output.save()
    assert models.same(plain, 2 * v)
    assert models.same(h, chain.module.layers[0](x) + 2 * v, 1e-5)


@pytest.mark.parametrize("compile", [False, True])
def test_vmap_over_a_steering_vector(chain, x, v, compile):
    vs = mx.stack([v, 2 * v, -v])
    ours = mx.vmap(lambda v: steered(chain, x, v, compile))(vs)
    loop = mx.stack([by_hand(chain.module, x, vs[k]) for k in range(3)])
    assert models.same(ours, loop, 1e-5)


def test_vmap_over_the_input(chain, x, v):
    xs = mx.stack([x, x * 2, -x])
    ours = mx.vmap(lambda x: steered(chain, x, v))(xs)
    loop = mx.stack([by_hand(chain.module, xs[k], v) for k in range(3)])
    assert models.same(ours, loop, 1e-5)


@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_trace_inside_mx_compile(chain, x, v, compile):
    @mx.compile
    def step(x, v):
        return steered(chain, x, v, compile) * 2

    for scale in (1.0, 2.0, 3.0):
        assert models.same(step(x, v * scale), by_hand(chain.module, x, v * scale) * 2, 1e-4)
    assert models.same(steered(chain, x, v), by_hand(chain.module, x, v), 1e-5)


def test_a_gradient_inside_mx_compile(chain, x, v):
    gradient = mx.compile(mx.grad(lambda v: steered(chain, x, v).sum()))
    expected = mx.grad(lambda v: by_hand(chain.module, x, v).sum())
    assert models.same(gradient(v), expected(v), 1e-5)
    assert models.same(gradient(v * 2), expected(v * 2), 1e-5)


def test_a_compiled_pass_inside_transformations(chain, x, v):
    with chain.trace(x) as t:
        chain.layers[1].output += v
        chain.output.save("out")
    fast = chain.compile(t.graph)

    def loss(x):
        return (fast(x).saves["out"] ** 2).sum()

    def plain(x):
        return (by_hand(chain.module, x, v) ** 2).sum()

    assert models.same(mx.grad(loss)(x), mx.grad(plain)(x), 1e-4)
    xs = mx.stack([x, -x])
    ours = mx.vmap(lambda x: fast(x).saves["out"])(xs)
    assert models.same(ours, mx.stack([by_hand(chain.module, k, v) for k in (x, -x)]), 1e-5)


def test_the_trace_works_as_before_after_a_transformation(chain, x, v):
    mx.grad(lambda v: steered(chain, x, v, True).sum())(v)
    mx.vmap(lambda v: steered(chain, x, v, True))(mx.stack([v, v]))
    for compile in (True, False, "auto", "auto"):
        assert models.same(steered(chain, x, v, compile), by_hand(chain.module, x, v), 1e-5)


def test_an_error_inside_a_transformation_leaves_the_model_usable(chain, x, v):
    def wrong(v):
        with chain.trace(x):
            chain.layers[1].output += v
            raise ZeroDivisionError

    for transformation in (mx.grad, mx.vmap, mx.compile):
        with pytest.raises(ZeroDivisionError):
            transformation(wrong)(mx.stack([v, v]) if transformation is mx.vmap else v)
        assert models.same(steered(chain, x, v), by_hand(chain.module, x, v), 1e-5)


def test_a_random_model_and_a_census_inside_a_gradient():
    """The very first trace of a model may be inside a transformation."""
    mx.random.seed(0)
    module = models.Chain()
    model = mg.InterpretableModel(module)
    x = mx.ones((1, 2, 6))
    gradient = mx.grad(lambda x: steered(model, x, mx.ones((6,)), True).sum())(x)
    expected = mx.grad(lambda x: by_hand(module, x, mx.ones((6,))).sum())(x)
    assert models.same(gradient, expected, 1e-5)
