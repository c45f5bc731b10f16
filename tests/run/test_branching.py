"""Models that branch on values: a run that goes another way than the census raises or is right."""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import (
    LookError,
    MLXGraphError,
    NeverCalledError,
    ShapeError,
    UnboundParamError,
)
from tests import models


class Stream(nn.Module):
    """The value as it comes: an edit here decides which way the model goes."""

    def __call__(self, x):
        return x


class Fork(nn.Module):
    """Repeats, skips, cuts and counts by the sum of its stream."""

    def __init__(self):
        super().__init__()
        self.gate, self.step, self.cut, self.count, self.end = (Stream() for _ in range(5))
        self.scale = models.Scale(4, 2.0)

    def __call__(self, x):
        x = self.gate(x)
        total = x.sum().item()
        for _ in range(3 if total > 0 else 1):
            x = self.step(x)
        if total > 0:
            x = self.scale(x)
        x = self.cut(x[:, : 3 if total > 0 else 1])
        x, number, flag = self.count((x, abs(total), total > 0))
        return self.end(x), number, flag


X = mx.ones((1, 3, 4))


@pytest.fixture
def model():
    return mg.InterpretableModel(Fork())


def turned(model, body, value=-1.0, compile="auto"):
    with model.trace(X, compile=compile):
        model.gate.output = mx.full((1, 3, 4), value)
        kept = body(model)
    return kept


def write_second_step(model):
    model.step.calls[2].output *= 0
    return model.output[0].save()


MISSED = {
    "a write at a call that no longer happens": write_second_step,
    "a save at a call that no longer happens": lambda m: m.step.calls[1].output.save(),
    "a save in a module that is not called": lambda m: m.scale.output.save(),
    "its input": lambda m: m.scale.input.save(),
    "a value made of it": lambda m: (m.scale.output + 1).sum().save(),
    "a skip": lambda m: (m.scale.skip(m.step.calls[2].output), m.output[0].save()),
}
OTHER_SHAPES = {
    "a save": lambda m: m.cut.output.save(),
    "a write": lambda m: (m.cut.output.__setitem__((0, 2), 0), m.output[0].save()),
    "a part": lambda m: m.cut.output[:, 2].save(),
    "later": lambda m: m.end.output.save(),
    "in a tuple": lambda m: m.output[0].save(),
    "the whole tuple": lambda m: m.output.save(),
}


@pytest.mark.parametrize("name", MISSED)
@pytest.mark.parametrize("compile", ["auto", False])
def test_what_the_forward_no_longer_comes_to_raises(model, name, compile):
    for _ in range(2):
        with pytest.raises(MLXGraphError, match=r"test_branching.py:\d+") as caught:
            turned(model, MISSED[name], compile=compile)
        assert isinstance(caught.value, (NeverCalledError, ShapeError))
    turned(model, MISSED[name], value=2.0)


@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_a_value_of_another_shape_is_never_broadcast(model, name):
    for _ in range(2):
        with pytest.raises(ShapeError, match=r"test_branching.py:\d+"):
            turned(model, OTHER_SHAPES[name])
    turned(model, OTHER_SHAPES[name], value=2.0)


def test_numbers_among_outputs_are_those_of_the_edited_forward(model):
    with model.trace(X):
        model.gate.output = mx.full((1, 3, 4), 5.0)
        number, flag = model.output[1], model.output[2]
        inner = model.count.output[1]
        whole = model.output.save()
    assert number == inner == 60.0 and flag is True
    assert whole.value[1] == 60.0
    with model.trace(X):
        assert model.output[1] == 12.0
        model.gate.output *= 2
        assert model.output[1] == 24.0
        assert [v for v in model.output][1] == 24.0


# -- numbers beside sites that the edited forward no longer comes to ------------------------------


class Early(nn.Module):
    """Stops at the first layer that is large, and says how many it took."""

    def __init__(self, make):
        super().__init__()
        self.gate, self.make = Stream(), make
        self.layers = [nn.Linear(4, 4) for _ in range(3)]

    def __call__(self, x):
        x, n = self.gate(x), 0
        for layer in self.layers:
            x, n = layer(x), n + 1
            if mx.abs(x).max().item() > 1e3:
                break
        return self.make(x, n)


MADE = {
    "a namespace": (lambda x, n: SimpleNamespace(x=x, n=n), lambda out: out.n),
    "a tuple": (lambda x, n: (x, n), lambda out: out[1]),
    "a dict": (lambda x, n: {"x": x, "n": n}, lambda out: out["n"]),
    "a list in a dict": (lambda x, n: {"x": x, "more": [n]}, lambda out: out["more"][0]),
    "unpacked": (lambda x, n: (x, n), lambda out: [*out][1]),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("factor, count", [(1.0, 3), (1e5, 1)])
def test_a_number_of_an_edited_forward_that_ends_early(made, factor, count):
    make, number = MADE[made]
    module = Early(make)
    model = mg.InterpretableModel(module)
    x = mx.random.normal((1, 3, 4), key=mx.random.key(3))
    assert number(module(factor * x)) == count
    with model.trace(x):
        assert number(model.output) == 3
        model.gate.output *= factor
        here = number(model.output)
        again = number(model.output)
        first = model.layers[0].output.save()
    assert here == again == count
    assert models.same(first, module.layers[0](factor * x), 1e-3)
    with model.trace() as t:
        with t.invoke(x):
            assert number(model.output) == 3
            model.gate.output *= factor
            here = number(model.output)
        with t.invoke(x):
            other = number(model.output)
            model.output.save()
    assert (here, other) == (count, 3)


def test_a_number_of_a_prompt_that_waits_for_another_prompts_value():
    model = mg.InterpretableModel(Early(lambda x, n: (x, n)))
    x = mx.random.normal((1, 3, 4), key=mx.random.key(3))
    with pytest.raises(LookError), model.trace() as t:
        with t.invoke(x):
            other = model.gate.output
        with t.invoke(x):
            model.gate.output = other * 1e5
            assert model.output[1]


def test_a_number_of_a_prompt_waits_for_a_param():
    model = mg.InterpretableModel(Early(lambda x, n: (x, n)))
    with pytest.raises(UnboundParamError), model.trace() as t, t.invoke(X):
        model.gate.output *= mg.param("by")
        assert model.output[1]


class Inner(nn.Module):
    """The shape inside depends on values; that of the output does not."""

    def __init__(self):
        super().__init__()
        self.gate, self.inner = Stream(), Stream()

    def __call__(self, x):
        x = self.gate(x)
        n = 2 if x.sum().item() > 0 else 1
        return SimpleNamespace(y=self.inner(x[:, :n]).sum(1), n=n)


def test_a_number_beside_a_site_of_another_shape():
    model = mg.InterpretableModel(Inner())
    with model.trace(X):
        model.gate.output *= -1
        number = model.output.n
        assert model.gate.output.sum().item() == -12.0
    assert number == 1
    with model.trace() as t, t.invoke(X):
        model.gate.output *= -1
        number = model.output.n
    assert number == 1


def test_a_number_beside_an_array_of_another_shape_raises_on_the_users_line(model):
    with pytest.raises(ShapeError, match=r"test_branching.py:\d+"), model.trace(X):
        model.gate.output = mx.full((1, 3, 4), -2.0)
        assert model.output[1]


def test_numbers_of_a_forward_that_is_recorded_and_not_run_are_not_made_up(model):
    with pytest.raises(MLXGraphError), model.edit(None, X):
        model.gate.output *= 2
        assert model.output[1] == 12.0


def test_what_stays_the_same_goes_on(model):
    with model.trace(X):
        model.gate.output = mx.full((1, 3, 4), 2.0)
        model.step.calls[1].output += 1
        out = model.output[0].save()
    assert models.same(out, mx.full((1, 3, 4), 6.0), 1e-6)


def test_a_graph_that_meets_inputs_that_go_another_way(model):
    with model.trace(X) as t:
        model.scale.output.save("a")
    assert models.same(model.run(t.graph, X)["a"], X * 2, 1e-6)
    with pytest.raises(MLXGraphError):
        model.run(t.graph, -X)
