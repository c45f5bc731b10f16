"""A module under several names: each name means the calls that the forward makes by it."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import NeverCalledError
from tests import models

X = mx.arange(24, dtype=mx.float32).reshape(2, 3, 4) / 12 - 1


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(4, 4)
        self.mlp = nn.Linear(4, 4)

    def __call__(self, x, edited=""):
        inner = mx.tanh(self.attn(x))
        if edited == "attn":
            inner = mx.tanh(mx.zeros_like(inner))
        out = self.mlp(inner)
        return x + (0 if edited == "mlp" else out)


class Repeated(nn.Module):
    """One block, four times, as ALBERT has it."""

    def __init__(self):
        super().__init__()
        self.layers = [Block()] * 4

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x * 1.5)
        return x

    def edited(self, x, number, part):
        """What zeroing one part of one layer gives, by hand."""
        for k in range(4):
            x = self.layers[0](x * 1.5, part if k == number else "")
            x = mx.zeros_like(x) if (k, "") == (number, part) else x
        return x


class Backwards(nn.Module):
    """The second name is called first."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = self.a

    def __call__(self, x):
        return self.a(mx.tanh(self.b(x)))


class LastAgain(nn.Module):
    """A second name that the forward never calls by."""

    def __init__(self):
        super().__init__()
        self.layers = [Block(), Block()]
        self.last = self.layers[-1]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class InTuple(nn.Module):
    def __init__(self):
        super().__init__()
        block = Block()
        self.layers = (block, block)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def wrapped(kind: type[nn.Module]) -> mg.InterpretableModel:
    mx.random.seed(1)
    module = kind()
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)


@pytest.mark.parametrize("compile", [False, True, "auto"])
@pytest.mark.parametrize("part", ["", "attn", "mlp"])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_every_way_to_name_a_repeated_layer_means_its_own_call(number, part, compile):
    model = wrapped(Repeated)
    right = model.module.edited(X, number, part)
    assert not models.same(right, model.module.edited(X, (number + 1) % 4, part), 1e-3)
    name = f"layers.{number}" + (f".{part}" if part else "")
    with model.trace(X, compile=compile) as t:
        handle = model[name]
        handle.output = mx.zeros_like(handle.output)
        by_handle = model.output.save()
    with model.trace(X, compile=compile, interventions={name: iv.zero_out}):
        by_intervention = model.output.save()
    graph = mg.edit(name, iv.zero_out)
    found = [by_handle, by_intervention, model.run(graph, X, compile=compile).output]
    found += [model.edit(graph)(X), model.run(t.graph, X).output]
    for each in found:
        assert models.same(each, right, 1e-6)


def test_the_first_name_means_its_own_call_where_it_is_not_the_first():
    model = wrapped(Backwards)
    first = model.module.b(X)
    with model.trace(X) as t:
        a, b = model.a.output.save(), model.b.output.save()
        calls = [model.a.calls[k].output.save() for k in range(2)]
        given = model.a.input.save()
    assert models.same(b, first, 1e-6) and models.same(calls[0], first, 1e-6)
    assert models.same(a, model.module.a(mx.tanh(first)), 1e-6) and models.same(calls[1], a)
    assert models.same(given, mx.tanh(first), 1e-6)
    assert models.same(t.activations["a"], a) and models.same(t.get("b"), b)


def test_a_pattern_means_each_call_once():
    model = wrapped(Repeated)
    every = mg.edit("layers.*.mlp", iv.zero_out, expect=4)
    assert models.same(model.run(every, X).output, X * 1.5**4, 1e-6)
    with model.trace(X) as t:
        kept = t.cache("layers.*", "layers.2")
    assert list(kept) == [f"layers.{k}" for k in range(4)]
    last = wrapped(LastAgain)
    twice = mg.edit("*", iv.scale(2.0)) >> mg.edit("layers.*", iv.scale(2.0), expect=2)
    by_hand = last.module.layers[1](last.module.layers[0](X) * 2) * 4
    assert models.same(last.run(twice, X).output, by_hand, 1e-5)


def test_a_name_that_the_forward_does_not_call_by_means_the_one_call_there_is():
    model = wrapped(LastAgain)
    with model.trace(X):
        one, other = model.last.mlp.output.save(), model.layers[1].mlp.output.save()
        model.last.output *= 0
        out = model.output.save()
    assert models.same(one, other) and not out.any()


def test_a_name_that_could_mean_several_calls_is_refused():
    model = wrapped(InTuple)
    with pytest.raises(NeverCalledError, match=r"Write layers\.0\.calls\[1\]"), model.trace(X):
        model.layers[1].output.save()
    with model.trace(X):
        second = model.layers[0].calls[1].output.save()
        out = model.output.save()
    assert models.same(second, out)


def test_calls_by_name_in_invokes_and_files(tmp_path):
    model = wrapped(Repeated)
    with model.trace() as t:
        with t.invoke(X):
            one = model.layers[2].output.save("one")
        with t.invoke(X[:1]):
            model.layers[1].mlp.output *= 0
            two = model.output.save("two")
    assert models.same(one, model.run(mg.read("layers.2", name="x"), X).saves["x"], 1e-6)
    assert models.same(two, model.module.edited(X[:1], 1, "mlp"), 1e-6)
    mg.edit("layers.3.attn", iv.zero_out).save(tmp_path / "g")
    loaded = mg.Graph.load(tmp_path / "g")
    assert models.same(model.run(loaded, X).output, model.module.edited(X, 3, "attn"), 1e-6)
