"""A bound whole number is Python's: the result is that of the number written in its place."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import OperationError
from tests import models


class Same(nn.Module):
    def __call__(self, x):
        return x


COMPILE = [False, True, "auto"]
FORMULAS = {
    "2**p": (lambda h, p: h * 2**p, [-1, 0, 3, True]),
    "p**-1": (lambda h, p: h * p**-1, [2, -4]),
    "10**p": (lambda h, p: h * 10**p, [10, -3]),
    "p*p": (lambda h, p: h * (p * p), [70000, -3, True]),
    "p+big": (lambda h, p: h * (p + 2147483647), [1, -1]),
    "-p": (lambda h, p: h * -p, [3, True, -(2**31)]),
    "p/3": (lambda h, p: h * (p / 3), [1, 6]),
    "p//3": (lambda h, p: h * (p // 3), [7, -7]),
    "p%3": (lambda h, p: h * (p % 3), [7, -7]),
    "abs": (lambda h, p: h + abs(p - 5), [3, 9]),
    "nested": (lambda h, p: (1 - p) * h + 2 ** (p - 1) / (1 + p**2), [-1, 4]),
    "half": (lambda h, p: h * (p * 0.5), [3]),
}


def recorded(model, x, formula, p):
    with model.trace(x) as t:
        formula(model.output, p).save("o")
    return t.graph


@pytest.mark.parametrize("dtype", [mx.float32, mx.int32])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_bound_whole_number_is_as_if_it_were_written_there(name, dtype):
    formula, values = FORMULAS[name]
    model, x = mg.InterpretableModel(Same()), mx.array([[1, 2, 3]], dtype)
    graph = recorded(model, x, formula, mg.param("p"))
    for value in values:
        try:
            written = recorded(model, x, formula, value)
        except OperationError:  # it does not fit
            continue
        want = formula(x, value)
        for compile in COMPILE:
            out = model.run(graph.bind(p=value), x, compile=compile)["o"]
            assert out.dtype == want.dtype and models.same(out, want, 1e-5), (value, compile)
            assert models.same(model.run(written, x, compile=compile)["o"], out, 1e-5)
        if dtype == mx.float32:
            assert models.same(model.run(graph, x, p=value)["o"], want, 1e-4)


def test_what_python_cannot_compute_is_left_to_the_run():
    model, x = mg.InterpretableModel(Same()), mx.ones((1, 3))
    graph = recorded(model, x, lambda h, p: h * (1 / p), mg.param("p"))
    assert mx.isinf(model.run(graph.bind(p=0), x)["o"]).all()
    assert models.same(model.run(graph.bind(p=2), x)["o"], x / 2, 0)


def test_numbers_bound_one_by_one_are_those_bound_at_once():
    model, x = mg.InterpretableModel(Same()), mx.ones((1, 3))
    a, b = mg.param("a"), mg.param("b")
    graph = recorded(model, x, lambda h, _: h * (2**a + b * 3), None)
    at_once = graph.bind(a=-1, b=4)
    assert graph.bind(a=-1).bind(b=4) == at_once == graph.bind(b=4).bind(a=-1)
    assert models.same(model.run(at_once, x)["o"], x * 12.5, 0)
    assert models.same(model.run(graph.bind(b=4), x, a=-1)["o"], x * 12.5, 0)
