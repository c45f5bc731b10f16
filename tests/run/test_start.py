"""`start=True`: what is saved is begun as the block ends; otherwise when somebody looks."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.errors import EscapedError
from mlxgraph.mlx_facts.originals import NAMESPACES
from mlxgraph.mlx_facts.probes import is_computed
from tests import models
from tests.models import made

X = mx.arange(48, dtype=mx.float32).reshape(2, 4, 6) / 24 - 1
COMPILE = pytest.mark.parametrize("compile", [False, True, "auto"])


def is_begun(array: mx.array) -> bool:
    mx.synchronize()
    return not is_computed(array)


@COMPILE
@pytest.mark.parametrize("start", [False, True])
def test_what_is_saved_is_begun_or_waits(compile, start):
    model = made(models.Chain)
    for _ in range(3):
        with model.trace(X, compile=compile, start=start):
            model.layers[0].output *= 2
            hidden, out = model.layers[1].output.save(), model.output.save()
        assert is_begun(hidden) is start and is_begun(out) is start
        result = model.run(mg.read("layers.1", name="h"), X, compile=compile, start=start)
        assert is_begun(result["h"]) is start


def test_it_is_the_same_values_in_one_prompt_and_in_several():
    model = made(models.Chain)
    with model.trace(X):
        lazy = model.output.save()
    with model.trace(start=True) as t:
        with t.invoke(X):
            one = model.output.save()
        with t.invoke(X[::-1]):
            two = model.output.save()
    assert is_begun(one) and is_begun(two)
    assert models.same(one, lazy, 1e-6) and models.same(two, lazy[::-1], 1e-6)


def test_what_a_transformation_follows_waits():
    model = made(models.Chain)

    def loss(x):
        with model.trace(x, start=True):
            out = model.output.save()
        return out.square().sum()

    def plain(x):
        return model.module(x).square().sum()

    assert models.same(mx.grad(loss)(X), mx.grad(plain)(X), 1e-5)
    assert models.same(mx.compile(loss)(X), plain(X), 1e-5)


def test_an_escape_that_shows_only_now_is_told():
    """A line that once gave an array is not asked again, unless what is saved is begun."""
    model, tanh = made(models.Chain), NAMESPACES["mx"]["tanh"]
    for given, fails in ((lambda h: mx.ones((6,)), False), (lambda h: tanh(h[0, 0]), True)):
        try:
            with model.trace(X, start=True):
                model.layers[0].output += given(model.layers[0].output)
                model.output.save()
        except EscapedError:
            assert fails
        else:
            assert not fails
