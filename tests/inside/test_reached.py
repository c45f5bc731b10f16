"""Functions of MLX are seen wherever a model keeps them; what is of one row alone is not."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import MLXGraphError, NeverCalledError
from mlxgraph.mlx_facts.compiling import function_of

WIDTH = 6
x = mx.random.normal((2, 5, WIDTH), key=mx.random.key(0))
over_last = partial(mx.softmax, axis=-1)
ROUNDS = (mx.sin, partial(mx.clip, a_min=-0.5, a_max=0.5))
NAMED = {"deep": mx.cos}


class Keeps(nn.Module):
    """One step a line."""

    root = staticmethod(mx.sqrt)
    table = {"abs": mx.abs}
    kept = mx.tan  # an object has another one of its own

    def __init__(self):
        super().__init__()
        self.several = [mx.exp, nn.Linear(WIDTH, WIDTH)]
        self.by_name = {"a": mx.tanh}
        self.pair = (mx.square,)
        self.partial = partial(mx.softmax, axis=1)
        self.own = mx.compile(lambda a: mx.sigmoid(a) * 2)
        self.kept = lambda a: a + 1

    def __call__(self, h):
        h = over_last(h)
        h = ROUNDS[1](ROUNDS[0](h))
        h = NAMED["deep"](h)
        h = self.several[1](self.several[0](h))
        h = self.by_name["a"](h)
        h = self.pair[0](h)
        h = self.partial(h)
        h = self.own(h)
        h = self.root(self.table["abs"](h))
        return self.kept(h)


STEPS = [
    ("softmax", 0), ("sin", 0), ("clip", 0), ("cos", 0), ("exp", 0), ("tanh", 0), ("square", 0),
    ("softmax", 1), ("own", 0), ("abs", 0), ("sqrt", 0),
]  # fmt: skip


def test_in_partials_lists_tuples_dicts_and_classes():
    module = Keeps()
    model, plain = mg.InterpretableModel(module), module(x)
    with model.trace(x):
        called = [(str(op).removeprefix("ops.").partition(".")[0], op) for op in model.ops]
        values = [op.output.save() for _, op in called]
        output = model.output.save()
    assert [name for name, _ in called] == [name for name, _ in STEPS]
    assert mx.array_equal(output, plain)
    assert mx.array_equal(values[0], mx.softmax(x, axis=-1))
    with model.trace(x):
        model.ops["softmax", 1].output = 0.25
        edited = model.output.save()
    by_hand = mx.sqrt(mx.abs(mx.full(x.shape, 2 * mx.sigmoid(mx.array(0.25))))) + 1
    assert mx.allclose(edited, by_hand) and not mx.allclose(edited, plain)


def test_they_stay_where_they_are():
    module = Keeps()
    lists = [ROUNDS, module.several, module.by_name, module.pair, NAMED]
    before = [[*(held.values() if isinstance(held, dict) else held)] for held in lists]
    objects = (over_last, module.partial, module.own, dict(vars(module)), dict(vars(Keeps)))
    model = mg.InterpretableModel(module)
    with model.trace(x):
        model.ops["softmax", 1].output.save()
    after = [[*(held.values() if isinstance(held, dict) else held)] for held in lists]
    assert before == after
    assert objects == (
        over_last, module.partial, module.own, dict(vars(module)), dict(vars(Keeps)),
    )  # fmt: skip
    assert mx.tan is Keeps.kept and over_last.func is mx.softmax


TABLE = [mx.sin]


class Changing(nn.Module):
    """What it calls stands in places that change between one forward and the next."""

    of_class = [mx.abs]

    def __init__(self):
        super().__init__()
        self.own = [mx.square]

    def __call__(self, h):
        for function in (*TABLE, *self.of_class, *self.own):
            h = function(h)
        return mx.tanh(h)


def test_what_they_are_kept_in_may_change():
    module = Changing()
    model = mg.InterpretableModel(module)

    def traced():
        with model.trace(x, compile=False):
            model.ops["tanh"].output.save()
            return model.output.save()

    results = []
    for change in (
        lambda: None,
        lambda: TABLE.append(mx.cos),
        lambda: Changing.of_class.append(mx.exp),
        lambda: setattr(Changing, "of_class", [mx.negative]),
        lambda: module.own.append(mx.cosh),
        lambda: setattr(module, "own", [mx.exp]),
    ):
        change()
        results.append(module(x))
        assert mx.array_equal(traced(), results[-1])
    pairs = zip(results, results[1:], strict=False)
    assert not any(bool(mx.array_equal(one, other)) for one, other in pairs)


def test_what_a_model_holds_goes_with_the_model():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.run = mx.compile(lambda a: mx.tanh(a))

        def __call__(self, h):
            return self.run(h)

    module = Held()
    model = mg.InterpretableModel(module)
    with model.trace(x):
        assert [str(op) for op in model.ops] == ["ops.run"]
    code = weakref.ref(function_of(module.run))
    del model, module
    gc.collect()
    assert code() is None


class Inner(nn.Module):
    def __call__(self, h):
        return mx.tanh(h)


class Rows(nn.Module):
    """It works row by row, and its last line on all of them."""

    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def __call__(self, h):
        h = mx.vmap(lambda row: mx.cumsum(mx.sin(row), axis=-1))(h)
        return mx.exp(mx.vmap(self.inner)(h))


def test_what_is_of_one_row_is_no_operation():
    model = mg.InterpretableModel(Rows())
    with model.trace(x):
        assert [str(op) for op in model.ops] == ["ops.exp"]
        with pytest.raises(NeverCalledError, match="sin"):
            model.ops["sin"].output.save()
        with pytest.raises(NeverCalledError, match="tanh"):
            model.inner.ops["tanh"].output.save()
        whole = model.ops["exp"].output.save()
    assert mx.array_equal(whole, Rows()(x))


class Attends(nn.Module):
    def __call__(self, q):
        return mx.vmap(lambda a: mx.fast.scaled_dot_product_attention(a, a, a, scale=1.0))(q)


def test_nor_is_an_attention_of_one_row():
    q = mx.random.normal((2, 1, 3, 5, 4), key=mx.random.key(1))
    model = mg.InterpretableModel(Attends())
    with model.trace(q), pytest.raises(MLXGraphError, match="no attention"):
        model["pattern"].output.save()
