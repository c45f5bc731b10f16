"""Gradients in invokes are those of the prompt alone; a gradient of nothing raises."""

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import GradientError
from tests.composing.helpers import FRANCE, GERMANY, ROME, apart
from tests.models import Mixed


def loss_of(model):
    return model.output[:, -1].square().mean()


PLACES = {
    "output": lambda m: m.layers[1].output,
    "view": lambda m: m.layers[1].output[:, -1],
    "input": lambda m: m.layers[2].mlp.input,
    "computed": lambda m: m.layers[0].output,
    "written": lambda m: m.layers[3].output,
}


@pytest.mark.parametrize("compiled", [False, True, "auto"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.thin(4)
def test_a_gradient_in_an_invoke_is_that_of_the_prompt_alone(tiny, place, compiled):
    texts = [FRANCE, GERMANY, ROME]

    def block(grad):
        tiny.layers[3].output[:, -1] *= 2
        at = PLACES[place](tiny)
        tiny.layers[4].output += 0.1
        return grad(loss_of(tiny), at).save()

    with tiny.trace(compile=compiled) as t:
        together = []
        for text in texts:
            with t.invoke(text):
                together.append(block(t.grad))
    for text, found in zip(texts, together, strict=True):
        with tiny.trace(text, compile=compiled) as t:
            alone = block(t.grad)
        scale = float(mx.abs(alone).max())
        assert scale > 1e-6 and apart(found, alone) < 1e-4 * scale


def test_a_gradient_of_several_rows_and_of_backward(tiny):
    with tiny.trace() as t:
        with t.invoke(ROME):
            tiny.output.save()
        with t.invoke([FRANCE, GERMANY]):
            h = tiny.layers[2].output
            loss_of(tiny).backward()
            found = h.grad.save()
    with tiny.trace([FRANCE, GERMANY]) as t:
        want = t.grad(loss_of(tiny), tiny.layers[2].output).save()
    assert apart(found, want) < 1e-4 * float(mx.abs(want).max())


def test_a_gradient_at_a_nested_site_of_an_invoke():
    mx.random.seed(3)
    module = Mixed()
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    x, y = mx.random.normal((2, 6)), mx.random.normal((2, 6))
    with model.trace() as t:
        found = []
        for k in range(2):
            with t.invoke(x[k : k + 1], y[k : k + 1]):
                left = model.parts["left"].output
                found.append(t.grad(model.output["main"].square().sum(), left).save())
    for k in range(2):
        with model.trace(x[k : k + 1], y[k : k + 1]) as t:
            left = model.parts["left"].output
            want = t.grad(model.output["main"].square().sum(), left).save()
        for one, other in zip(found[k].value, want.value, strict=True):
            assert apart(one, other) < 1e-5 and float(mx.abs(other).max()) > 1e-3


def test_a_gradient_flows_from_one_invoke_into_another(tied):
    a, b = mx.array([[1, 7, 3, 9]]), mx.array([[5, 11, 2, 8]])
    with tied.trace() as t:
        with t.invoke(a):
            h = tied.layers[0].output
        with t.invoke(b):
            tied.layers[1].output[:, -1] = h[:, -1]
            slope = t.grad(loss_of(tied), h).save()
    assert float(mx.abs(slope[:, -1]).max()) > 1e-6 and not mx.any(slope[:, :-1])


class Branches(nn.Module):
    """Two branches: neither depends on the other."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)

    def __call__(self, x):
        return self.left(x) * self.right(x)


@pytest.fixture(scope="module")
def branches():
    mx.random.seed(1)
    model = mg.InterpretableModel(Branches())
    mx.eval(model.module.parameters())
    return model


NOTHING = {
    "a later site": lambda t, m: t.grad(m.left.output.sum(), m.output),
    "another branch": lambda t, m: t.grad(m.right.output.sum(), m.left.output),
    "the branch after": lambda t, m: t.grad(m.left.output.sum(), m.right.output),
    "an unused result": lambda t, m: t.grad(m.output.sum(), m.left.output * 2),
    "a view of a later one": lambda t, m: t.grad(m.left.output.sum(), m.output[:, -1]),
    "one of several": lambda t, m: t.grad(m.left.output.sum(), [m.left.output, m.output])[1],
    "a constant": lambda t, m: t.grad(mx.array(2.0) + 0 * m.left.input.sum(), m.left.output),
}


@pytest.mark.parametrize("compiled", [False, True, "auto"])
@pytest.mark.parametrize("case", NOTHING)
def test_a_gradient_of_what_the_loss_does_not_depend_on_raises(branches, x, case, compiled):
    for _ in range(2):  # and again: what was prepared is not taken for good
        with pytest.raises(GradientError, match=r"(?s)does not depend on .*test_gradients_of_not"):
            with branches.trace(x, compile=compiled) as t:
                NOTHING[case](t, branches).save()


def test_a_value_that_an_edit_replaces_has_a_slope_of_zero(branches, x):
    with branches.trace(x) as t:
        h = branches.left.output
        branches.left.output = mx.zeros((2, 4, 6))
        slope = t.grad(branches.output.sum(), h).save()
    assert not mx.any(slope)


def test_the_loss_of_another_invoke_does_not_depend_on_this_one(tied):
    with pytest.raises(GradientError, match="invoke 1"):
        with tied.trace() as t:
            with t.invoke(mx.array([[1, 7, 3]])):
                loss = loss_of(tied)
            with t.invoke(mx.array([[1, 7, 4]])):
                t.grad(loss, tied.layers[0].output).save()


@pytest.mark.parametrize("compiled", [False, True, "auto"])
def test_a_way_that_is_blocked_is_a_way(branches, x, compiled):
    """The loss depends on it, and its slope is zero: nothing is wrong."""
    for _ in range(2):
        with branches.trace(x, compile=compiled) as t:
            h = branches.left.output
            loss = mx.stop_gradient(branches.output).sum() + branches.right.output.sum()
            flat = t.grad(loss, h).save()
            steep = t.grad(loss, branches.right.output).save()
    assert not mx.any(flat) and mx.all(steep == 1)


def test_writes_that_come_after_the_gradient_count(branches, x):
    with branches.trace(x) as t:
        twice = branches.left.output * 2
        slope = t.grad(branches.output.sum(), twice).save()
        right = branches.right.output.save()
        branches.left.output = twice
    assert apart(slope, right) < 1e-6


def test_a_gradient_of_nothing_in_an_invoke_names_the_line(tiny):
    here = r"layers.2.output.*\n  at test_gradients_of_nothing.py"
    with pytest.raises(GradientError, match=here):
        with tiny.trace() as t:
            with t.invoke(FRANCE):
                h = tiny.layers[2].output
                t.grad(mx.zeros_like(h).sum(), h).save()
