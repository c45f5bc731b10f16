"""Values of a wrong kind where a recorded value, a function, a number or a name is meant."""

from __future__ import annotations

import operator
import traceback

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import GradientError, InputError, InterventionError, ShapeError


def raises(kind, said, use):
    with pytest.raises(kind) as caught:
        use()
    assert said in str(caught.value), caught.value
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__
    return caught.value


GRADIENTS = {
    "a handle": (lambda t, m, loss: t.grad(loss, m.layers[1]), "model.layers[1].output"),
    "a part": (lambda t, m, loss: t.grad(loss, m.layers[1].mlp), "model.layers[1].mlp.output"),
    "a name": (lambda t, m, loss: t.grad(loss, "layers.1"), "and 'layers.1' is none"),
    "a number": (lambda t, m, loss: t.grad(loss, 5), "and 5 is none"),
    "an array": (lambda t, m, loss: t.grad(loss, mx.zeros(3)), "model.layers[1].output"),
    "one of several": (lambda t, m, loss: t.grad(loss, [m.layers[0].output, None]), "None is none"),
    "of a number": (lambda t, m, loss: t.grad(5, m.layers[0].output), "of a recorded number"),
    "of a module": (lambda t, m, loss: t.grad(m.layers[0], m.layers[0].output), "model.layers[0]"),
    "of a name": (lambda t, m, loss: t.grad("loss", m.layers[0].output), "'loss' is none"),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_of_and_at_recorded_values(tied, tokens, name):
    take, said = GRADIENTS[name]
    with tied.trace(tokens) as t:
        loss = tied.output.sum()
        raises(GradientError, said, lambda: take(t, tied, loss))
    with tied.trace() as several, several.invoke(tokens):
        loss = tied.output.sum()
        raises(GradientError, said, lambda: take(several, tied, loss))


FUNCTIONS = {
    "a number": lambda h: mg.apply(5, h),
    "alone": lambda h: mg.apply(5),
    "the wrong way round": lambda h: mg.apply(h, np.abs),
    "a name": lambda h: mg.apply("abs", h),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_applied_is_a_function(tied, tokens, name):
    with tied.trace(tokens):
        h = tied.layers[0].output
        raises(InterventionError, "runs a function", lambda: FUNCTIONS[name](h))
        assert mg.apply(mx.abs, h).shape == h.shape


ONE_NUMBER = {
    "if": (lambda h: bool(h > 0), "h.any() or h.all()"),
    "not": (lambda h: not h, "mx.where(h, a, b)"),
    "and": (lambda h: h and 1, "h.any() or h.all()"),
    "float": (float, "h.mean()"),
    "int": (int, "h.argmax()"),
    "complex": (complex, "an index"),
    "item": (lambda h: h.item(), "h.tolist()"),
    "index": (lambda h: [1, 2][h.argmax(-1)], "an index"),
    "format": (lambda h: f"{h:.3f}", "an index"),
    "range": (lambda h: operator.index(h), "an index"),
}


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_an_array_where_python_needs_one_number(tied, tokens, name):
    use, said = ONE_NUMBER[name]
    with tied.trace(tokens):
        error = raises(ShapeError, said, lambda: use(tied.layers[0].output))
        assert isinstance(error, ValueError) and "needs one number" in str(error)
        assert "(2, 6" in str(error)
        one = tied.layers[0].output[0, 0, 0]
        assert isinstance(float(one), float) and float(one.reshape(1, 1)) == one.item()
    graph = mg.edit("layers.0", lambda h: h if h > 0 else -h)
    with pytest.raises(ShapeError, match=r"h\.any\(\)"):
        tied.run(graph, tokens)


@pytest.mark.parametrize("number", ["a", slice(0, 1), 1.5, None])
def test_calls_go_by_number(tied, tokens, number):
    said = r"model.layers[0].mlp.calls[0] for the first"
    raises(InputError, said, lambda: tied.layers[0].mlp.calls[number])
    with tied.trace(tokens):
        raises(InputError, said, lambda: tied.layers[0].mlp.calls[number])
        assert tied.layers[0].mlp.calls[np.int64(0)].output.shape


@pytest.mark.parametrize("name", [5, mx.zeros(2), iv.zero_out, ["a"]])
def test_a_save_goes_by_a_text(tied, tokens, name):
    with tied.trace(tokens):
        for value in (tied.output, tied.layers[0].inputs):
            raises(InputError, "name is text", lambda: value.save(name))  # noqa: B023
