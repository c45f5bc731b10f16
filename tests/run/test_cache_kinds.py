"""Law 28, for caches of every make: a cache is left as the bare forward leaves it, whatever is
saved.  A container of some kind holds what each layer keeps in a container of another."""

from __future__ import annotations

from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import KVCache

import mlxgraph as mg
from tests import models

Pair = namedtuple("Pair", "a b")


@dataclass
class Two:
    a: Any
    b: Any


@dataclass(frozen=True)
class FrozenTwo:
    a: Any
    b: Any


@dataclass
class Kept:
    k: Any = None
    steps: list = field(default_factory=list)


class Own:
    def __init__(self):
        self.k = None


class Slotted:
    __slots__ = ("k",)

    def __init__(self):
        self.k = None


OUTER = {
    "tuple": lambda a, b: (a, b),
    "tuple in tuple": lambda a, b: ((a,), (b,)),
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"a": a, "b": b},
    "deque": lambda a, b: deque([a, b]),
    "namedtuple": Pair,
    "dataclass": Two,
    "frozen dataclass": FrozenTwo,
    "namespace": lambda a, b: SimpleNamespace(a=a, b=b),
    "tuple of namespace": lambda a, b: (SimpleNamespace(a=a, b=b),),
}
INNER = {
    "dict": dict,
    "ordered dict": OrderedDict,
    "user dict": UserDict,
    "list": list,
    "namespace": lambda: SimpleNamespace(k=None),
    "dataclass": Kept,
    "own class": Own,
    "slots": Slotted,
    "mlx_lm": KVCache,
}


def halves(cache):
    """What each of two layers keeps its keys in."""
    while len(cache) == 1 if isinstance(cache, tuple) else False:
        cache = cache[0]
    if isinstance(cache, dict):
        cache = [*cache.values()]
    found = [cache.a, cache.b] if hasattr(cache, "a") else [*cache]
    return [one[0] if type(one) is tuple else one for one in found]


def held(mine):
    """The keys that a layer has kept so far, or None."""
    if isinstance(mine, (dict, UserDict)):
        return mine.get("k")
    if isinstance(mine, list):
        return mine[-1] if mine else None
    if isinstance(mine, KVCache):
        return mine.keys[..., : mine.offset, :] if mine.offset else None
    return mine.k


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def __call__(self, x, mine):
        k = self.proj(x)
        if isinstance(mine, KVCache):
            k = mine.update_and_fetch(k[:, None], k[:, None])[0][:, 0]
        else:
            before = held(mine)
            k = k if before is None else mx.concatenate([before, k], 1)
            if isinstance(mine, (dict, UserDict)):
                mine["k"] = k
            elif isinstance(mine, list):
                mine.append(k)
            else:
                mine.k = k
        return x + k.mean(1, keepdims=True)


class Kinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [Keeping(), Keeping()]

    def __call__(self, x, cache):
        for layer, mine in zip(self.layers, halves(cache), strict=True):
            x = layer(x, mine)
        return x


def edited(model, x, cache):
    model.edit(mg.edit("layers.1", lambda h: h * 1))(x, cache=cache)


def traced(act):
    def run(model, x, cache):
        with model.trace(x, cache=cache) as t:
            act(model)
        assert t.output.shape == x.shape

    return run


RUNS = {
    "the first saved": traced(lambda m: m.layers[0].output.save()),
    "the output saved": traced(lambda m: m.output.save()),
    "nothing saved": traced(lambda m: None),
    "a look": traced(lambda m: m.layers[0].output.tolist()),
    "a graph": lambda m, x, c: m.run(mg.read("layers.0", name="h"), x, cache=c)["h"],
    "an edited model": edited,
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.thin(6)
def test_a_cache_of_any_make_is_left_as_the_bare_forward_leaves_it(outer, inner, run):
    module = Kinds()
    model = mg.InterpretableModel(module)
    ours, theirs = (OUTER[outer](INNER[inner](), INNER[inner]()) for _ in range(2))
    mine = halves(ours)
    for step in range(3):
        x = mx.random.normal((1, 2, 4), key=mx.random.key(step))
        module(x, theirs)
        RUNS[run](model, x, ours)
    for one, two, same in zip(halves(ours), halves(theirs), mine, strict=True):
        assert one is same, "the caller's own object"
        assert held(one).shape[-2] == 6
        assert models.same(held(one), held(two), 1e-5)


class Passing(Kinds):
    """Layers that hand their cache on with what they give."""

    class Layer(Keeping):
        def __call__(self, x, mine):
            return super().__call__(x, mine), mine

    def __init__(self):
        super().__init__()
        self.layers = [self.Layer(), self.Layer()]

    def __call__(self, x, cache):
        for layer, mine in zip(self.layers, halves(cache), strict=True):
            x, after = layer(x, mine)
            if isinstance(after, dict):
                after["seen"] = after.get("seen", 0) + 1
            else:
                after.seen = getattr(after, "seen", 0) + 1
        return x


@pytest.mark.parametrize("inner", ["dict", "namespace", "dataclass", "own class"])
def test_a_cache_among_a_layers_outputs_stays_the_callers_own_beside_an_edit(inner):
    module = Passing()
    model = mg.InterpretableModel(module)
    cache = (INNER[inner](), INNER[inner]())
    for _ in range(2):
        with model.trace(mx.ones((1, 2, 4)), cache=cache):
            model.layers[0].output[0][:] *= 2
            model.output.save()
    for one in cache:
        assert (one["seen"] if isinstance(one, dict) else one.seen) == 2


def test_objects_of_arrays_that_a_forward_leaves_alone_are_compiled():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def __call__(self, batch):
            return self.inner(batch.a) + batch.b

    model = mg.InterpretableModel(Sum())
    for make in (Two, FrozenTwo, Pair, lambda a, b: SimpleNamespace(a=a, b=b)):
        before = model.compilations
        for value in (1.0, 2.0):
            x = mx.full((2, 4), value)
            with model.trace(make(x, x), compile=True):
                out = model.output.save()
            assert models.same(out, model.module(make(x, x)), 1e-5)
        assert model.compilations == before + 1
