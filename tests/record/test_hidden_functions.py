"""Functions that the recording cannot see: compiled ones, and draws imported by name.

A function given as an intervention is run as it is where it uses one; in a block it raises.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.core.random import normal

import mlxgraph as mg
from mlxgraph.errors import EscapedError
from tests import models

X = mx.ones((2, 6))
tanh = mx.compile(lambda x: mx.tanh(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)

    def __call__(self, x):
        return self.a(x)


@pytest.fixture
def model():
    return mg.InterpretableModel(Net())


def in_place(h):
    h *= 2
    h += tanh(h)
    return h


def written(h):
    h[:] = tanh(h)
    return h


def looked(h):
    h += tanh(h)
    return h * (1.0 if h.sum().item() > 0 else 2.0)


USES = {
    "what it gives": lambda h: tanh(h),
    "more of it": lambda h: tanh(h) * 2 + h,
    "in place": in_place,
    "written": written,
    "where": lambda h: mx.where(h > 0, tanh(h), h),
    "at": lambda h: h.at[:, 0].add(tanh(h)[:, 0]),
    "a part": lambda h: mx.concatenate([tanh(h)[:, :3], h[:, 3:]], axis=1),
}


@pytest.mark.parametrize("compile", [False, True, "auto"])
@pytest.mark.parametrize("use", USES)
def test_an_intervention_that_uses_a_compiled_function(model, use, compile):
    fn = USES[use]
    expected = fn(mx.array(model.module.a(X)))
    graph = mg.edit("a", fn)
    for _ in range(2):
        assert models.same(model.run(graph, X, compile=compile).output, expected, 1e-5)
    assert models.same(model.edit(graph)(X), expected, 1e-5)
    with model.trace(X, interventions={"a": fn}, compile=compile):
        out = model.output.save()
    assert models.same(out, expected, 1e-5)
    both = model.run(graph >> mg.edit("a", lambda h: h + 1), X, compile=compile).output
    assert models.same(both, expected + 1, 1e-5)


def test_one_that_looks_as_well(model):
    expected = looked(mx.array(model.module.a(X)))
    assert models.same(model.run(mg.edit("a", looked), X).output, expected, 1e-5)
    with model.trace(X, interventions={"a": looked}):
        out = model.output.save()
    assert models.same(out, expected, 1e-5)


def drawing():
    state = {"inputs": mx.random.state, "outputs": mx.random.state}
    noisy = mx.compile(lambda x: x + mx.random.normal(x.shape), **state)
    return lambda h: noisy(h) * 1


@pytest.mark.parametrize("compile", [False, True, "auto"])
@pytest.mark.parametrize("make", [drawing, lambda: lambda h: h + normal(h.shape)])
def test_an_intervention_that_draws_out_of_sight_draws_anew(model, make, compile):
    fn = make()
    graph = mg.edit("a", fn)
    runs = [model.run(graph, X, compile=compile).output for _ in range(3)]
    assert not models.same(runs[0], runs[1], 1e-4) and not models.same(runs[1], runs[2], 1e-4)
    mx.eval(fn(X))
    mx.random.seed(5)
    one = model.run(graph, X, compile=compile).output
    mx.random.seed(5)
    assert models.same(one, model.run(graph, X, compile=compile).output, 1e-6)


class Noise(nn.Module):
    """Draws by a function that it imported by name."""

    def __call__(self, x):
        return x + normal(x.shape)


class Compiled(nn.Module):
    """Calls a function of its own file that is compiled."""

    def __call__(self, x):
        return tanh(x)


@pytest.mark.parametrize("module", [Noise(), Compiled()])
def test_a_module_that_is_no_part_of_the_model_says_to_add_it(model, module):
    with pytest.raises(EscapedError, match=r"test_hidden_functions.py:\d+") as caught:
        with model.trace(X):
            model.a.output += module(model.a.output)
            model.output.save()
    assert " = module`" in str(caught.value)
    model.added = module
    with model.trace(X) as t:
        model.added(model.a.output).save("u")
    fast = model.compile(t.graph)
    again = [fast(X)["u"] for _ in range(3)]
    assert models.same(again[0], again[1], 1e-5) is (type(module) is Compiled)


def test_draws_from_before_the_block_and_draws_of_others_are_constants(model):
    noise = normal((6,))
    with model.trace(X):
        model.a.output += noise
        out = model.output.save()
    assert models.same(out, model.module.a(X) + noise, 1e-5)
    mx.eval(noise)
    with model.trace(X):
        normal((3,))
        model.a.output += noise
        out = model.output.save()
    assert models.same(out, model.module.a(X) + noise, 1e-5)
    with model.trace(X):
        iv = mx.random.normal((6,))
        mx.random.seed(1)
        model.a.output += iv
        model.output.save()
