"""`compile="auto"` gives what an eager run gives, also where a run cannot be compiled."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import CompileError
from tests import models
from tests.models import made


class Reading(nn.Module):
    """Looks at the value of a weight while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.gain = mx.array(2.0)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x) * self.read()

    def read(self) -> Any:
        return self.gain.item()


class Deciding(Reading):
    def read(self) -> Any:
        return 2.0 if self.gain > 1 else 0.5


class Evaluating(Reading):
    def read(self) -> Any:
        mx.eval(self.gain)
        return self.gain


class ThroughNumpy(Reading):
    def read(self) -> Any:
        return float(np.array(self.gain))


class Listing(Reading):
    def read(self) -> Any:
        return self.gain.reshape(1).tolist()[0]


class Own(Reading):
    """Fails in a way of its own where a value is not there."""

    def read(self) -> Any:
        try:
            return self.gain.item()
        except ValueError:
            raise KeyError("no value") from None


KINDS = [Reading, Deciding, Evaluating, ThroughNumpy, Listing, Own]


def run(model: Any, x: mx.array, compile: Any = "auto") -> Any:
    with model.trace(x, compile=compile) as t:
        model.inner.output *= 3.0
        out = model.output.save()
    return out, t


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_reads_a_weight_stays_eager_and_right(x, kind):
    model = made(kind)
    module = model.module
    for k in range(6):
        out, t = run(model, x)
        assert models.same(out, module.inner(x) * 3.0 * module.read(), 1e-5)
        assert models.same(t.output, out, 1e-5)
        module.inner.weight = module.inner.weight * 1.5
        if k == 3:
            module.gain = mx.array(0.25)
    assert model.compilations == 1  # tried once, and never again


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_said_and_a_forced_compile_still_raises(x, kind):
    model = made(kind)
    _, t = run(model, x)
    assert "compiled when it comes again" in model.explain(t.graph, x)
    run(model, x)
    told = model.explain(t.graph, x)
    assert "eager, always: it could not be compiled" in told
    assert "compiled when" not in told
    assert ("no value" if kind is Own else "looks at a value") in told
    with pytest.raises(CompileError, match="compile=False"):
        run(model, x, compile=True)
    with pytest.raises(CompileError):
        model.compile(t.graph)(x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forced_compile_that_fails_is_an_error_of_ours(x, kind):
    model = made(kind)
    for _ in range(3):
        with pytest.raises(CompileError, match="compile=False") as caught:
            run(model, x, compile=True)
        assert caught.value.__cause__ is not None
    assert run(model, x)[0].shape == x.shape


@pytest.mark.parametrize("compile", [True, "auto"])
def test_parts_of_several_splits_of_one_array_compile(x, compile):
    """A GRU called by hand splits its gates at every step; MLX's own compile fails on that."""
    model, cell = made(Reading), nn.GRU(6, 4)
    for _ in range(3):
        with model.trace(x, compile=compile):
            out = cell(model.inner.inputs[0][0]).save()
        assert models.same(out, cell(x), 1e-5)


def test_edited_models_and_pass_functions_stay_right(x):
    model = made(Reading)
    with model.trace(x) as t:
        model.inner.output *= 3.0
    edited = model.edit(t.graph)

    @model.pass_
    def scaled(m, factor):
        m.inner.output *= factor
        return m.output

    truth = model.module.inner(x) * 6.0
    for _ in range(3):
        assert models.same(edited(x), truth, 1e-5)
        assert models.same(scaled(x, 3.0), truth, 1e-5)
        assert models.same(model.run(mg.edit("inner", lambda h: 3 * h), x).output, truth, 1e-5)


def test_what_is_wrong_without_compiling_too_is_raised_as_it_is(x):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)
            object.__setattr__(self, "runs", [0])

        def __call__(self, x):
            self.runs[0] += 1
            if self.runs[0] > 2:
                raise LookupError("mine")
            return self.inner(x)

    model = made(Failing)
    run(model, x)  # the census, and the run
    with pytest.raises(LookupError, match="mine"):
        for _ in range(4):
            run(model, x)
    model.module.runs[0] = -10
    for _ in range(3):
        assert run(model, x)[0].shape == x.shape


def test_gradients_go_through_a_model_that_reads_a_weight(x):
    model = made(Reading)

    def loss(x):
        return run(model, x)[0].sum()

    expected = mx.grad(lambda x: (model.module.inner(x) * 6.0).sum())(x)
    for _ in range(3):
        assert models.same(mx.grad(loss)(x), expected, 1e-4)
