"""Whole numbers that a graph is given later, or that meets a narrower array, fit or are refused."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import OperationError
from tests import models

COMPILE = [False, True, "auto"]
NARROW = mx.array([[100, 3]], mx.uint8)


class Same(nn.Module):
    def __call__(self, x):
        return x


MODEL = mg.InterpretableModel(Same())
FORMULAS = {
    "add": lambda h, p: h + p,
    "radd": lambda h, p: p + h,
    "multiply": lambda h, p: h * p,
    "greater": lambda h, p: h > p,
    "where": lambda h, p: mx.where(h > 3, h, p),
    "maximum": lambda h, p: mx.maximum(h, p),
    "clip": lambda h, p: mx.clip(h, 0, p),
    "derived": lambda h, p: h * (p + p),
    "at": lambda h, p: h.at[0].add(p),
}


def recorded(x, formula, number):
    with MODEL.trace(x) as t:
        formula(MODEL.output, number).save("o")
    return t.graph


@pytest.mark.parametrize("value", [300, -1, 255])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_bound_number_that_does_not_fit_is_refused_in_every_run(name, value):
    formula = FORMULAS[name]
    graph = recorded(NARROW, formula, mg.param("p"))
    fits = value == 255 and name != "derived"
    for compile in (*COMPILE, "auto"):
        want = formula(NARROW, 7)
        assert models.same(MODEL.run(graph.bind(p=7), NARROW, compile=compile)["o"], want)
        if fits:
            found = MODEL.run(graph.bind(p=value), NARROW, compile=compile)["o"]
            assert models.same(found, formula(NARROW, value))
            continue
        with pytest.raises(OperationError, match="uint8 goes from 0 to 255"):
            MODEL.run(graph.bind(p=value), NARROW, compile=compile)
        compiled = MODEL.compile(graph.bind(p=value))
        with pytest.raises(OperationError, match=r"written at test_numbers_of_a_run.py"):
            compiled(NARROW)


@pytest.mark.parametrize("compile", COMPILE)
def test_a_graph_recorded_on_wide_numbers_is_refused_on_narrow_ones(compile):
    wide = mx.array([[1, 2]])
    graph = recorded(wide, lambda h, p: h + p, 300)
    for _ in range(2):
        assert MODEL.run(graph, wide, compile=compile)["o"].tolist() == [[301, 302]]
        with pytest.raises(OperationError, match="uint8"):
            MODEL.run(graph, NARROW, compile=compile)


@pytest.mark.parametrize("compile", COMPILE)
def test_a_bound_number_that_is_written_fits_too(compile):
    with MODEL.trace(NARROW) as t:
        MODEL.output[0, 0] = mg.param("p")
        MODEL.output.save("o")
    for _ in range(2):
        assert MODEL.run(t.graph.bind(p=7), NARROW, compile=compile)["o"].tolist() == [[7, 3]]
        with pytest.raises(OperationError, match="uint8"):
            MODEL.run(t.graph.bind(p=300), NARROW, compile=compile)
