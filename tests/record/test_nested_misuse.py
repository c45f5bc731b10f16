"""Nested values used as if they were one array, or by entries that they do not have."""

from __future__ import annotations

import operator
import traceback
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import BoundsError, NoEntryError, UnknownEntryError
from tests import models

X = mx.ones((2, 4))


@dataclass
class Sum:
    logits: Any

    def __mul__(self, other):
        return self.logits * other


class Kinds(nn.Module):
    def __call__(self, x):
        return (x, {"a": x * 2}, [x * 3], Sum(x + 4))


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.k = Kinds()
        self.d = Dicts()

    def __call__(self, x):
        return self.d(self.k(x)[0])["b"]["c"]


class Dicts(nn.Module):
    def __call__(self, x):
        return {"n": 3, "b": {"c": x}}


@pytest.fixture
def model():
    return models.made(Holder)


def raises(model, kind, said, use):
    with pytest.raises(kind) as caught, model.trace(X):
        use(model.k.output)
    assert said in str(caught.value), caught.value
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__
    assert "test_nested_misuse.py" in str(caught.value)


ENTRIES = {
    "a key further in": (lambda o: o["a"], "`k.output[1]['a']`"),
    "no such key": (lambda o: o[1]["b"], "It has the entries 'a'"),
    "a number in a dict": (lambda o: o[1][0], "has no entry 0"),
    "beyond": (lambda o: o[5], "has no entry 5"),
    "before": (lambda o: o[-5], "It has the entries 0, 1, 2, 3"),
    "of a list": (lambda o: o[2][1], "k.output[2] is [(2, 4)]"),
    "an arrays index": (lambda o: o[:, 0], "`k.output[0][...]`"),
    "two numbers": (lambda o: o[0, 1], "`k.output[0][...]`"),
    "a new axis": (lambda o: o[None], "`k.output[0][...]`"),
    "a slice of a dict": (lambda o: o[1][:], "`k.output[1]['a'][...]`"),
    "a list": (lambda o: o[[0]], "has no entry [0]"),
    "a float": (lambda o: o[1.0], "has no entry 1.0"),
    "written beyond": (lambda o: operator.setitem(o, 7, X), "has no entry 7"),
    "written by a key": (lambda o: operator.setitem(o, "a", X), "`k.output[1]['a']`"),
    "written in a dict": (lambda o: operator.setitem(o[1], "b", X), "has no entry 'b'"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_is_not_there(model, name):
    use, said = ENTRIES[name]
    raises(model, NoEntryError, said, use)
    for kind in (BoundsError, IndexError, KeyError, TypeError, mg.MLXGraphError):
        assert issubclass(NoEntryError, kind)


def test_a_keyword_that_a_module_is_not_called_with(tied, tokens):
    with pytest.raises(KeyError, match="It has no entries") as caught:
        with tied.trace(tokens):
            tied.layers[1].self_attn.inputs[1]["mask"] = mx.zeros((6, 6))
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


ATTRIBUTES = {
    "shape": (lambda o: o.shape, "`[0].shape`"),
    "of a dict": (lambda o: o[1].shape, "`['a'].shape`"),
    "a method of a dict": (lambda o: o[1].pop("a"), "`['a'].pop`"),
    "a key as an attribute": (lambda o: o[1].a, "`k.output[1]['a']`"),
    "of a list": (lambda o: o[2].append(1), "`[0].append`"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_of_an_array(model, name):
    use, said = ATTRIBUTES[name]
    raises(model, UnknownEntryError, said, use)


COMPUTED = {
    "*": lambda o: o * 2,
    "reflected": lambda o: 2 - o,
    "by itself": lambda o: o + o,
    "@": lambda o: o @ X,
    "-": lambda o: -o,
    "abs": abs,
    "float": float,
    "int": int,
    ">": lambda o: o > 0,
    "in place": lambda o: operator.imul(o, 2),
    "in": lambda o: o[0] in o,
    "of a list": lambda o: o[2] + 1,
    "of a dict": lambda o: o[1] * 2,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_arithmetic_takes_a_part(model, name):
    part = {"of a list": "`k.output[2][0]`", "of a dict": "`k.output[1]['a']`"}
    raises(model, UnknownEntryError, part.get(name, "`k.output[0]`"), COMPUTED[name])
    assert issubclass(UnknownEntryError, TypeError)


FUNCTIONS = {
    "mean": lambda o: mx.mean(o),
    "relu": lambda o: nn.relu(o),
    "abs": lambda o: mx.abs(o),
    "add": lambda o: mx.add(X, o),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_arrays_take_a_part(model, name):
    function = FUNCTIONS[name]
    raises(
        model,
        mg.MLXGraphError,
        "one array is needed, and this is a tuple of several. Write h[0]",
        function,
    )
    with model.trace(X):
        first = function(model.k.output[0]).save()
    assert mx.allclose(first, function(X))


def test_what_a_class_can_do_itself_it_does(model):
    with model.trace(X):
        doubled = (model.k.output[3] * 2).save()
        pair = model.k.output[:2]
        last = model.k.output[-1].logits.save()
        whole = model.k.output.save()
    assert mx.allclose(doubled, (X + 4) * 2) and len(pair) == 2 and mx.allclose(last, X + 4)
    assert len(whole + (1,)) == 5 and mx.allclose(whole[3] * 2, doubled)


WHOLE = {
    "inputs": (lambda m: setattr(m.k, "inputs", 3), "`k.inputs[0][0] = ...`"),
    "the arguments": (lambda m: operator.setitem(m.k.inputs, 0, 3), "`k.inputs[0][0] = ...`"),
    "the model's": (lambda m: setattr(m, "inputs", X), "`model.inputs[0][0] = ...`"),
    "an output": (lambda m: setattr(m.k, "output", 3), "`k.output[0] = ...`"),
    "a dict": (lambda m: setattr(m.d, "output", 3), "`d.output['b']['c'] = ...`"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_nested_value_written_whole_with_one_is_told_its_own_entry(model, name):
    write, said = WHOLE[name]
    with pytest.raises(mg.MLXGraphError) as caught, model.trace(X):
        write(model)
    assert said in str(caught.value)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__
