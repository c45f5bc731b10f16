"""Modules that are no part of the model: their weights are those of now, however it is run."""

from __future__ import annotations

from functools import cache, lru_cache
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import CompileError
from tests.models import same

GLOBAL = nn.Linear(8, 8)
IN_A_LIST = [nn.Linear(8, 8)]
IN_A_DICT = {"a": (nn.Linear(8, 8),)}
inner = nn.Linear(8, 8)  # called as what `Plain` keeps itself


def helper(x):
    return GLOBAL(x)


@lru_cache
def fetched(k):
    return nn.Linear(8, 8)


@cache
def listed():
    return {"a": [nn.Linear(8, 8)]}


class OfAGlobal(nn.Module):
    def __call__(self, x):
        return GLOBAL(x)


class OfAList(nn.Module):
    def __call__(self, x):
        return IN_A_LIST[0](x)


class OfADict(nn.Module):
    def __call__(self, x):
        return IN_A_DICT["a"][0](x)


class OfAClass(nn.Module):
    inside = nn.Linear(8, 8)

    def __call__(self, x):
        return type(self).inside(x)


class OfABase(OfAClass):
    pass


class OfAHelper(nn.Module):
    def __call__(self, x):
        return (lambda y: helper(y))(x)


class OfACache(nn.Module):
    def __call__(self, x):
        return fetched(1)(x)


class OfANestedCache(nn.Module):
    def __call__(self, x):
        return listed()["a"][0](x)


KINDS = {
    OfAGlobal: lambda: GLOBAL,
    OfAList: lambda: IN_A_LIST[0],
    OfADict: lambda: IN_A_DICT["a"][0],
    OfAClass: lambda: OfAClass.inside,
    OfABase: lambda: OfAClass.inside,
    OfAHelper: lambda: GLOBAL,
    OfACache: lambda: fetched(1),
    OfANestedCache: lambda: listed()["a"][0],
}


class Around(nn.Module):
    """The model: what reaches out is a part of it."""

    def __init__(self, kind):
        super().__init__()
        self.part = kind()

    def __call__(self, x):
        return self.part(x) * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("around", [False, True])
def test_its_weights_are_those_of_now(kind, around):
    module = Around(kind) if around else kind()
    model, x = mg.InterpretableModel(module), mx.ones((2, 8))
    graph = mg.read("__model_output__", name="out")
    seen = []
    for step in range(5):
        expected = module(x)
        assert same(model.run(graph, x)["out"], expected, 1e-5), step
        with model.trace(x):
            out = model.output.save()
        assert same(out, expected, 1e-5), step
        weights = KINDS[kind]()
        if step % 2:
            weights.weight = weights.weight * 0.5 + 0.1
        else:
            weights.weight[0] = 3.0 + step
        seen.append(expected)
    assert not same(seen[0], seen[1], 1e-3) and not same(seen[1], seen[2], 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forced_compile_says_which_module_it_is(kind):
    model, x = mg.InterpretableModel(kind()), mx.ones((2, 8))
    kind()(x)
    with pytest.raises(CompileError, match="no part of the model"):
        model.compile(mg.read("__model_output__"))(x)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        object.__setattr__(self, "settings", SimpleNamespace(GLOBAL=1))

    def __call__(self, x):
        return self.inner(x) * self.settings.GLOBAL


def test_a_name_that_is_only_called_the_same_is_no_such_module():
    model, x = mg.InterpretableModel(Plain()), mx.ones((2, 8))
    for _ in range(3):
        with model.trace(x, compile=True):
            out = model.output.save()
    assert same(out, model.module(x), 1e-5) and model.compilations == 1
