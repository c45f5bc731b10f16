"""Modules whose names hold dots, and modules that give or take several values."""

from __future__ import annotations

from enum import Enum

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import OperationError, ShapeError
from tests.models import same

X = mx.ones((2, 8))


class Kind(Enum):
    A = 1


class Dotted(nn.Module):
    """Children under keys that hold a dot."""

    def __init__(self, key):
        super().__init__()
        self.key = key
        self.d = {key: nn.Linear(8, 8), "plain": nn.Linear(8, 8)}

    def __call__(self, x):
        return self.d["plain"](self.d[self.key](x))


@pytest.mark.parametrize("key", ["a.b", "a.b.c", ".a", Kind.A])
def test_every_name_that_is_listed_is_a_name(key):
    model = mg.InterpretableModel(Dotted(key))
    with model.trace(X) as t:
        pass
    for name in list(t.activations):
        value = t.activations[name]
        assert same(model.run(mg.read(name, name="out"), X)["out"], value, 1e-6)
        assert same(t.get(name), value, 1e-6)
    (dotted,) = [name for name in t.activations if name.endswith(f"d.{key}")]
    zero = model.run(mg.edit(dotted, iv.zero_out) >> mg.read(dotted, name="out"), X)["out"]
    assert not mx.any(zero)
    assert model[dotted].module is model.module.d[key]


class Several(nn.Module):
    def __call__(self, x):
        return (x, {"a": x * 2}, [x * 3])


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.k = Several()

    def __call__(self, x):
        return self.k(x)[0]


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda o: mx.mean(o), r"Write h\[0\]"),
        (lambda o: mx.mean(o[1]), r"Write h\['a'\]"),
        (lambda o: mx.softmax(o[2], axis=-1), r"Write h\[0\]"),
    ],
)
def test_one_array_is_to_be_taken_of_several(use, said):
    model = mg.InterpretableModel(Around())
    with model.trace(X), pytest.raises((OperationError, ShapeError), match=said) as caught:
        use(model.k.output)
    assert "incompatible" not in str(caught.value)


def test_a_write_of_all_inputs_speaks_of_inputs(tiny):
    with tiny.trace([1, 2]), pytest.raises(ShapeError, match=r"`[a-z0-9._]*self_attn.inputs\[0\]"):
        tiny.layers[1].self_attn.inputs = 3
    with tiny.trace([1, 2]), pytest.raises(ShapeError, match="entries") as caught:
        tiny.layers[1].self_attn.inputs = mx.ones((2,))
    assert ".output" not in str(caught.value)
