"""What a model's code reaches past its objects: left as it was, and seen as it is."""

from __future__ import annotations

import gc
import itertools
import random
from array import array
from functools import lru_cache
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import CompileError, StateError
from tests import models
from tests.models import made

COMPILE = [False, True, "auto"]
NOTES: dict[str, Any] = {"calls": 0}
CALLS = 0
TABLE = mx.ones((6,))
HELD = nn.Linear(6, 6)


class Base(nn.Module):
    """Moves on by `step`, which gives a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.own()

    def own(self) -> None:
        pass

    def state(self) -> Any:
        raise NotImplementedError

    def __call__(self, x: mx.array) -> mx.array:
        y = self.inner(x)
        return y * self.step(y)


class Mapping(Base):
    notes: ClassVar[dict] = {}

    def state(self):
        return dict(self.notes)

    def step(self, y):
        type(self).notes["last"] = self.notes.get("last", 1.0) + y
        return self.notes["last"]


class Sums(Base):
    seen: ClassVar[list] = []

    def state(self):
        return list(self.seen)

    def step(self, y):
        self.seen.append(y)
        return len(self.seen) + sum(self.seen)


class Counted(Base):
    n = 0

    def state(self):
        return type(self).n

    def step(self, y):
        type(self).n += 1
        return type(self).n


class CountedByName(Base):
    n = 0

    def state(self):
        return CountedByName.n

    def step(self, y):
        CountedByName.n += 1
        return self.n


class Kept(Base):
    def state(self):
        return getattr(type(self), "last", None)

    def step(self, y):
        kind = self.__class__
        before = getattr(kind, "last", 1.0)
        kind.last = before + y
        return kind.last


class ByDefault(Base):
    def state(self):
        return dict(type(self).step.__defaults__[0])

    def step(self, y, memo={}):  # noqa: B006 - what is tested
        memo["last"] = memo.get("last", 1.0) + y
        return memo["last"]


def _helper(y, seen=[]):  # noqa: B006 - what is tested
    seen.append(y)
    return len(seen)


class ByHelper(Base):
    def state(self):
        return list(_helper.__defaults__[0])

    def step(self, y):
        return _helper(y)


class Global(Base):
    def state(self):
        return dict(NOTES)

    def step(self, y):
        NOTES["calls"] += 1
        NOTES["last"] = NOTES.get("last", 0.0) + y
        return NOTES["calls"]


class GlobalNumber(Base):
    def state(self):
        return CALLS

    def step(self, y):
        global CALLS
        CALLS += 1
        return CALLS


class InPlace(Base):
    total = mx.zeros((6,))

    def state(self):
        return self.total.tolist()

    def step(self, y):
        self.total[...] = self.total + y[0, 0]
        return self.total


class Numpy(Base):
    def own(self):
        self.calls = np.zeros(2)

    def state(self):
        return self.calls.tolist()

    def step(self, y):
        self.calls += 1
        return float(self.calls[0])


class ClassNumpy(Numpy):
    calls = np.zeros(2)

    def own(self):
        pass


class Bytes(Base):
    def own(self):
        self.buffer, self.numbers = bytearray(b"a"), array("i", [1])

    def state(self):
        return bytes(self.buffer), self.numbers.tolist()

    def step(self, y):
        self.buffer += b"b"
        self.numbers.append(len(self.buffer))
        return len(self.numbers) + self.numbers[-1]


class Drawing(Base):
    def own(self):
        object.__setattr__(self, "random", random.Random(0))
        object.__setattr__(self, "numpy", np.random.default_rng(0))
        object.__setattr__(self, "old", np.random.RandomState(0))

    def state(self):
        old = self.old.get_state()[1].tolist()
        return self.random.getstate(), str(self.numpy.bit_generator.state), old

    def step(self, y):
        return self.random.random() + self.numpy.random() + self.old.rand()


class Iterators(Base):
    def own(self):
        self.ids, self.turns = itertools.count(3), itertools.cycle([1, 2, 3])
        self.rest, self.more = iter([4, 5, 6, 7, 8, 9] * 9), enumerate(range(999))
        next(self.turns)

    def state(self):
        return repr(self.ids), self.rest.__length_hint__()

    def step(self, y):
        return next(self.ids) + next(self.turns) * next(self.rest) + next(self.more)[0]


class ClassIterator(Base):
    ids = itertools.count(3)

    def state(self):
        return repr(type(self).ids)

    def step(self, y):
        return next(self.ids)


class ClassModule(Base):
    norm = nn.BatchNorm(6)

    def state(self):
        return self.norm.running_mean.tolist()

    def step(self, y):
        return self.norm(y) + self.norm.running_mean


CLASSES = [
    Mapping,
    Sums,
    Counted,
    CountedByName,
    Kept,
    ByDefault,
    ByHelper,
    Global,
    GlobalNumber,
    InPlace,
    Numpy,
    ClassNumpy,
    Bytes,
    Drawing,
    Iterators,
    ClassIterator,
    ClassModule,
]
MODULE_BEYOND = (ClassModule, Drawing, Iterators, ClassIterator)  # never compiled


def compiles(kind: type, compile: Any) -> bool:
    return compile is not True or kind not in MODULE_BEYOND


@pytest.mark.parametrize("compile", COMPILE)
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.thin(6)
def test_state_beyond_the_objects_is_as_it_was(x, kind, compile):
    if not compiles(kind, compile):
        return
    model = made(kind)
    module = model.module
    before = str(module.state())
    outs = []
    for _ in range(3):
        with model.trace(x, compile=compile) as t:
            model.inner.output += 0.0
            outs.append(model.output.save())
        outs.append(t.activations["inner"] * 0 + t.output)
        outs.append(model.run(t.graph, x, compile=compile).output)
        mx.eval(outs)
        assert str(module.state()) == before
    with model.trace(x, compile=compile):
        float(model.output.sum())  # a look
        model.output.save()
    assert str(module.state()) == before
    truth = module(x)  # moves on from the state that no trace has moved
    for out in outs:
        assert models.same(out, truth, 1e-4)
    mx.eval(module(x), module.parameters())
    moved = module.state()
    with model.trace(x, compile=compile):
        out = model.output.save()
    mx.eval(out)
    assert str(module.state()) == str(moved)
    if kind is InPlace and compile:
        model.refresh()  # an array that code changes where it stands, beyond the objects
        with model.trace(x, compile=compile):
            out = model.output.save()
    assert models.same(out, module(x), 1e-4)  # and what the bare model moved is seen


class Generates(Base):
    def own(self):
        self.ids = (k for k in range(9))

    def step(self, y):
        return next(self.ids)


def test_what_cannot_be_copied_is_not_moved_on(x):
    model = made(Generates)
    with pytest.raises(StateError, match="generator"), model.trace(x):
        model.output.save()
    assert next(model.module.ids) == 0


def test_what_moves_on_by_itself_is_never_compiled(x):
    model = made(Iterators)
    with pytest.raises(CompileError, match="count"), model.trace(x, compile=True):
        model.output.save()


# -- modules that no tree leads to ----------------------------------------------------------------


class ByGlobal(nn.Module):
    def __call__(self, x):
        return HELD(x)


class ByClass(nn.Module):
    inner = nn.Linear(6, 6)

    def __call__(self, x):
        return self.inner(x)


class ByClassList(nn.Module):
    inner: ClassVar = {"all": [nn.Linear(6, 6)]}

    def __call__(self, x):
        return ByClassList.inner["all"][0](x)


@lru_cache
def fetched(width):
    return nn.Linear(width, width)


class ByCache(nn.Module):
    def __call__(self, x):
        return fetched(6)(x)


def _through(x):
    return HELD(x)


class ByFunction(nn.Module):
    def __call__(self, x):
        return _through(x)


class ByDefaultArgument(nn.Module):
    def __call__(self, x, inner=HELD):
        return inner(x)


def _bound(held):
    def call(self, x):
        return held(x)

    return call


class ByClosure(nn.Module):
    __call__ = _bound(HELD)


WAYS = {
    ByGlobal: lambda: HELD,
    ByClass: lambda: ByClass.inner,
    ByClassList: lambda: ByClassList.inner["all"][0],
    ByCache: lambda: fetched(6),
    ByFunction: lambda: HELD,
    ByDefaultArgument: lambda: HELD,
    ByClosure: lambda: HELD,
}


def step_of(module, in_place):
    if in_place:
        module.weight *= -1.1
        module.weight += 0.1
    else:
        module.weight = module.weight * -1.1 + 0.1


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", WAYS)
def test_weights_of_modules_beyond_the_tree_are_seen(x, kind, in_place):
    model = mg.InterpretableModel(kind())
    graph = mg.read("__model_output__", name="o")
    traced = model.pass_(lambda m: m.output)
    for _ in range(4):
        truth = model.module(x)
        assert models.same(model.run(graph, x)["o"], truth, 1e-5)
        assert models.same(traced(x), truth, 1e-5)
        with model.trace(x):
            out = model.output.save()
        assert models.same(out, truth, 1e-5)
        step_of(WAYS[kind](), in_place)
        assert not models.same(model.module(x), truth, 1e-3)
    with pytest.raises(CompileError, match="no part of the model"):
        model.run(graph, x, compile=True)
    assert "no part of the model" in str(model.explain(graph, x))


class Constant(nn.Module):
    scale = mx.array(2.0)

    def __call__(self, x):
        return x * self.scale * TABLE


def test_arrays_beyond_the_tree_are_seen_when_exchanged(x, monkeypatch):
    model = mg.InterpretableModel(Constant())
    graph = mg.read("__model_output__", name="o")
    for k in range(1, 4):
        for _ in range(3):
            assert models.same(model.run(graph, x, compile=True)["o"], model.module(x), 1e-5)
        monkeypatch.setattr(Constant, "scale", mx.array(2.0 + k))
        assert models.same(model.run(graph, x, compile=True)["o"], model.module(x), 1e-5)
        monkeypatch.setitem(globals(), "TABLE", mx.full((6,), 1.0 + k))
    gc.collect()
