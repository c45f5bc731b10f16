"""R10 for what modules hold: state in objects, lists and arrays of a module is as it was."""

from __future__ import annotations

import copy
from collections import deque
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    CacheList,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)

import mlxgraph as mg
from mlxgraph.graph.stateful import changes_itself
from tests import models
from tests.models import made

COMPILE = [False, True, "auto"]


class Caching(nn.Module):
    """Attends to all that it has ever seen, by a cache of its own."""

    def __init__(self, cache: Any):
        super().__init__()
        self.proj = nn.Linear(6, 6)
        self.cache = cache
        self.out = nn.Linear(6, 6)

    def __call__(self, x: mx.array) -> mx.array:
        keys = self.proj(x)[:, None]
        keys, values = self.cache.update_and_fetch(keys, keys)
        return self.out(mx.tanh(values.mean((1, 2), keepdims=True)[:, 0]) + x)


class Written:
    """Writes into one array, in place."""

    def __init__(self) -> None:
        self.keys = mx.zeros((2, 1, 64, 6))
        self.offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        n = keys.shape[2]
        self.keys[..., self.offset : self.offset + n, :] = keys
        self.offset += n
        return self.keys, self.keys[..., : self.offset, :]


class Slots:
    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[mx.array] = []

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        self.parts.append(keys)
        joined = mx.concatenate(self.parts, axis=2)
        return joined, joined


class Recent(Slots):
    def __init__(self) -> None:
        self.parts = deque(maxlen=3)  # type: ignore[assignment]


class Table(dict):
    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        before = self.get("keys")
        self["keys"] = keys if before is None else mx.concatenate([before, keys], axis=2)
        return self["keys"], self["keys"]


class Indirect:
    """State in an object of an object."""

    def __init__(self) -> None:
        self.inner = SimpleNamespace(caches=[KVCache()])

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        return self.inner.caches[0].update_and_fetch(keys, values)


CACHES = [KVCache, lambda: RotatingKVCache(max_size=8), Written, Slots, Recent, Table, Indirect]


def snapshot(value: Any) -> Any:
    """All that an object holds, arrays by value."""
    if isinstance(value, mx.array):
        return value.tolist()
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return [snapshot(item) for item in value]
    if hasattr(value, "__slots__"):
        return [snapshot(getattr(value, name)) for name in ("parts",)]
    return snapshot(vars(value)) if hasattr(value, "__dict__") else value


@pytest.mark.parametrize("compile", COMPILE)
@pytest.mark.parametrize("make", CACHES)
@pytest.mark.thin(4)
def test_a_cache_of_a_modules_own_is_as_it_was(x, make, compile):
    model = made(Caching(make()))
    module = model.module
    for calls in range(3):  # at first empty, then moved on by the bare model's own calls
        before = snapshot(module.cache)
        truth = copy.deepcopy(module)(x)
        for _ in range(3):
            with model.trace(x, compile=compile):
                model.proj.output += 0.0
                plain = model.output.save()
            with model.trace(x, compile=compile) as t:
                model.out.output += 1.0
                out = model.output.save()
            assert models.same(plain, truth, 1e-5), calls
            assert models.same(out, truth + 1.0, 1e-5)
            assert models.same(t.activations["out"], truth + 1.0, 1e-5)
        assert snapshot(module.cache) == before
        assert models.same(module(x), truth, 1e-5)


class Noting(nn.Module):
    """Keeps what it sees wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.notes = SimpleNamespace(last=None, count=0)
        self.recent: deque = deque(maxlen=2)
        self.seen: set = set()
        self.total = mx.zeros((6,))
        self.table = {"sums": [mx.zeros((6,))]}
        self.hook = self.note

    def note(self, x: mx.array) -> None:
        self.notes.last = x

    def __call__(self, x: mx.array) -> mx.array:
        y = self.inner(x)
        self.hook(y)
        self.notes.count += 1
        self.recent.append(y)
        self.seen.add(self.notes.count)
        self.total += y.sum((0, 1))
        self.table["sums"][0] += y.sum((0, 1))
        return y + self.total * self.notes.count


@pytest.mark.parametrize("compile", COMPILE)
def test_what_a_forward_keeps_anywhere_is_dropped(x, compile):
    model = made(Noting)
    module = model.module
    first = module.inner(x)
    truth = first + first.sum((0, 1))
    for _ in range(3):
        with model.trace(x, compile=compile) as t:
            inner = model.inner.output.save()
            out = model.output.save()
        assert models.same(out, truth, 1e-4) and models.same(inner, first, 1e-5)
        assert models.same(t.output, truth, 1e-4)
    assert module.notes == SimpleNamespace(last=None, count=0)
    assert not module.recent and not module.seen
    assert not module.total.any() and not module.table["sums"][0].any()
    with pytest.raises(ZeroDivisionError), model.trace(x):
        model.output.save()
        raise ZeroDivisionError
    assert module.notes.last is None
    assert models.same(module(x), truth, 1e-4) and module.notes.count == 1
    assert models.same(module.notes.last, first, 1e-5)


def test_a_language_model_with_a_cache_of_its_own(tokens):
    class Chat(nn.Module):
        def __init__(self):
            super().__init__()
            self.lm = models.make_llama()
            object.__setattr__(self, "caches", None)
            self.kept = SimpleNamespace(cache=make_prompt_cache(self.lm))

        def __call__(self, tokens):
            return self.lm(tokens, cache=self.kept.cache)

    module = Chat()
    model = mg.InterpretableModel(module)
    for turn in range(3):
        truth = copy.deepcopy(module)(tokens)
        for _ in range(3):
            with model.trace(tokens):
                model.lm.model.layers[0].mlp.output += 0.0
                out = model.output.save()
            assert models.same(out, truth, 1e-4)
        assert [cache.offset for cache in module.kept.cache] == [6 * turn] * 3
        mx.eval(module(tokens))


@pytest.mark.parametrize(
    "kind", [KVCache, RotatingKVCache, ArraysCache, CacheList, BatchKVCache, QuantizedKVCache]
)
def test_the_caches_of_mlx_lm_are_known_to_keep_state(kind):
    assert changes_itself(kind)


def test_a_cache_that_the_user_hands_in_is_still_used(tokens):
    module = models.make_llama()
    model = mg.InterpretableModel(module)
    cache = make_prompt_cache(module)
    with model.trace(tokens, cache=cache):
        model.output.save()
    assert [one.offset for one in cache] == [6] * 3


def test_a_recurrent_state_of_its_own(x):
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = ArraysCache(1)
            self.inner = nn.Linear(6, 6)

        def __call__(self, x):
            before = self.kept[0]
            now = self.inner(x) if before is None else self.inner(x) + before
            self.kept[0] = now
            return now

    model = made(Running)
    for _ in range(3):
        before = model.module.kept[0]
        truth = copy.deepcopy(model.module)(x)
        for _ in range(3):
            with model.trace(x):
                out = model.output.save()
            assert models.same(out, truth, 1e-5)
        assert model.module.kept[0] is before
        mx.eval(model.module(x))
