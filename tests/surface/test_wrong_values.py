"""Values of a wrong kind where a recorded value, a function, a number or a name is meant."""

from __future__ import annotations

import operator
import traceback

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import GradientError, InputError, InterventionError, PositionError, ShapeError


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


OPERANDS = {
    "scale": lambda: iv.scale("a"),
    "add_vector": lambda: iv.add_vector(None),
    "replace_with": lambda: iv.replace_with(None),
    "clamp": lambda: iv.clamp("a", "b"),
    "clamp from above": lambda: iv.clamp(max_val="b"),
    "noise": lambda: iv.noise("a"),
    "a dict": lambda: iv.scale({}),
    "a function": lambda: iv.add_vector(iv.zero_out),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_interventions_take_numbers_and_arrays(name):
    raises(InterventionError, "takes a number, an array or a param", OPERANDS[name])


@pytest.mark.parametrize("value", [2, 2.0, True, np.float32(2), [2.0], np.ones(2), mx.ones(2)])
def test_numbers_and_arrays_are_taken(value):
    assert iv.scale(value)(mx.ones(2)).shape == (2,)
    assert iv.scale(mg.param("a")) is not None


NAMES = {"ablate": "zero_out", "zero": "zero_out", "scal": "scale", "add": "add_vector"}


@pytest.mark.parametrize("name", NAMES)
def test_an_intervention_of_another_name(name):
    raises(AttributeError, f"'{NAMES[name]}'", lambda: getattr(iv, name))
    assert not hasattr(iv, name) and not hasattr(iv, "__wrapped__")


TEXTS = {
    "one text": (lambda m: m.encode_batch("text"), "model.encode(text)"),
    "a number as texts": (lambda m: m.encode_batch(5), "several texts"),
    "a number": (lambda m: m.decode(5), "model.decode([5, 7])"),
    "rows": (lambda m: m.decode(mx.array([[1, 2]])), "model.decode(tokens[0])"),
    "a text": (lambda m: m.decode("text"), "token ids"),
    "floats": (lambda m: m.decode([1.5]), "not the token ids"),
    "a list": (lambda m: m.token_to_str([1]), "no token id"),
    "negative": (lambda m: m.token_to_str(-1), "from 0 on"),
    "a float": (lambda m: m.token_to_str(1.5), "1.5 is no token id"),
    "the name of a tokenizer": (
        lambda m: mg.InterpretableModel(m.module, tokenizer="gpt2"),
        "from_pretrained",
    ),
    "layer_attr": (lambda m: mg.InterpretableModel(m.module, layer_attr=5), "layer_attr='h'"),
    "a text to a part": (lambda m: m.model("text"), "Write model('text')"),
    "a text to a layer": (lambda m: m.layers[0]("text"), "only the whole model encodes"),
    "a module": (lambda m: mg.get_activations(m.module, "a", ["layers.1"]), "is wrapped"),
    "swapped": (lambda m: mg.get_activations("a", m, ["layers.1"]), "comes first"),
    "many, swapped": (lambda m: mg.batch_get_activations("a", m, ["layers.1"]), "comes first"),
    "collected": (lambda m: mg.collect_activations("a", m), "comes first"),
    "a shape": (lambda m: mg.param("a", shape="x"), "shape=(128,)"),
    "a shape of floats": (lambda m: mg.param("a", shape=(1.5,)), "tuple of whole numbers"),
    "expect": (lambda m: mg.edit("layers.1", iv.zero_out, expect="a"), "expect=6"),
    "expect to read": (lambda m: mg.read("layers.1", expect="a"), "expect=6"),
    "read and a number": (lambda m: mg.read("layers.1", 5), "name='h'"),
    "read and a function": (lambda m: mg.read("layers.1", iv.zero_out), "mg.edit(sites"),
    "a pass of nothing": (lambda m: m.pass_(lambda: 1)("a"), "does not take these arguments"),
    "a pass without its argument": (
        lambda m: m.pass_(lambda m, v: m.output)("a"),
        "missing a required argument",
    ),
}


@pytest.fixture(scope="module")
def tiny():
    return mg.tiny()


@pytest.mark.parametrize("name", TEXTS)
def test_arguments_of_a_wrong_kind(tiny, name):
    use, said = TEXTS[name]
    raises(InputError, said, lambda: use(tiny))


def test_arguments_of_the_right_kind(tiny):
    ids = tiny.encode("The capital")
    for given in (ids, tuple(ids), np.array(ids), mx.array(ids)):
        assert tiny.decode(given) == "<|begin_of_text|>The capital"
    for token in (ids[1], np.int64(ids[1]), mx.array(ids[1]), mx.array([ids[1]])):
        assert tiny.token_to_str(token) == tiny.decode([ids[1]])
    assert tiny.encode_batch(("a", "b")) == [tiny.encode("a"), tiny.encode("b")]


def test_heads_and_positions_in_their_own_words(tiny):
    heads = mg.edit("layers.2.attn", iv.zero_out, heads=99)
    raises(IndexError, "has no head 99: it has heads 0–7", lambda: tiny.run(heads, "The capital"))
    several = ["The capital of France", "The capital"]
    for positions in (99, [0, 99]):
        graph = mg.edit("layers.2", iv.zero_out, positions=positions)
        for text, which in (("The capital", "the text"), (several, "text 0")):
            said = (
                f"layers.2.output cannot be edited at position 99: that is outside {which}, which"
            )
            raises(PositionError, said, lambda: tiny.run(graph, text))  # noqa: B023
        raises(PositionError, "test_wrong_values.py", lambda: tiny.edit(graph)("The"))  # noqa: B023
