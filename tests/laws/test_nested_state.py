"""State that a model keeps anywhere in itself is, after any trace, bit for bit what it was.

The state is drawn: arrays, counters and logs in lists, dicts, dataclasses, objects with and without
slots, in any nesting; so is the way in which a forward changes it.  The reference is a deep copy of
the bare model.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache

import mlxgraph as mg
from tests import models

X = mx.sin(mx.arange(48, dtype=mx.float32) * 1.7).reshape(2, 4, 6)
OTHER = mx.cos(mx.arange(36, dtype=mx.float32)).reshape(2, 3, 6)

# -- holders: what state can be nested in --------------------------------------------------------


@dataclass
class Data:
    first: Any
    second: Any = None


class Helper:
    def __init__(self, first: Any, second: Any = None):
        self.first, self.second = first, second


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self, first: Any, second: Any = None):
        self.first, self.second = first, second


class Counting:
    """A helper that changes itself, as caches do."""

    def __init__(self, first: Any, second: Any = None):
        self.first, self.second, self.calls = first, second, 0

    def tick(self) -> None:
        self.calls += 1


HOLDERS: dict[str, Callable[[Any, Any], Any]] = {
    "dataclass": Data,
    "object": Helper,
    "slots": Slotted,
    "counting": Counting,
    "namespace": lambda first, second: SimpleNamespace(first=first, second=second),
    "dict": lambda first, second: {"first": first, "second": second},
    "list": lambda first, second: [first, second],
}

# -- leaves: what is kept, and how a forward changes it ------------------------------------------

Put = Callable[[Any], None]  # puts another value in the place of a leaf


def replaced(value: Any, put: Put, seen: mx.array) -> Any:
    put(value + seen)
    return value


def written(value: Any, put: Put, seen: mx.array) -> Any:
    value[1:3] = seen[1:3]
    return value * 1.0


def added(value: Any, put: Put, seen: mx.array) -> Any:
    value += seen
    return value * 1.0


def counted(value: Any, put: Put, seen: mx.array) -> Any:
    put(value + 1)
    return mx.array(float(value))


def appended(value: Any, put: Put, seen: mx.array) -> Any:
    value.append(seen)
    return sum(value)


def kept_if_new(value: Any, put: Put, seen: mx.array) -> Any:
    put(seen if value is None else value)
    return seen if value is None else value


def named(value: Any, put: Put, seen: mx.array) -> Any:
    value[f"call {len(value)}"] = seen
    return sum(value.values())


def cached(value: Any, put: Put, seen: mx.array) -> Any:
    keys, _ = value.update_and_fetch(seen[None, None, None], seen[None, None, None])
    return keys.sum((0, 1, 2))


LEAVES: dict[str, tuple[Callable[[], Any], Callable[[Any, Put, mx.array], Any]]] = {
    "array, replaced": (lambda: mx.zeros((6,)), replaced),
    "array, written into": (lambda: mx.zeros((6,)), written),
    "array, added to": (lambda: mx.zeros((6,)), added),
    "counter": (lambda: 0, counted),
    "list": (list, appended),
    "deque": (lambda: deque(maxlen=2), appended),
    "nothing at first": (lambda: None, kept_if_new),
    "dict": (dict, named),
    "cache": (KVCache, cached),
}
SHAPES = st.recursive(
    st.sampled_from(sorted(LEAVES)),
    lambda inner: st.tuples(st.sampled_from(sorted(HOLDERS)), inner, inner),
    max_leaves=4,
)


def build(shape: Any) -> Any:
    """The state of this shape, as it is before any forward."""
    if isinstance(shape, str):
        return LEAVES[shape][0]()
    kind, first, second = shape
    return HOLDERS[kind](build(first), build(second))


def leaves_of(shape: Any) -> list[str]:
    return [shape] if isinstance(shape, str) else [n for part in shape[1:] for n in leaves_of(part)]


class Keeping(nn.Module):
    """Changes its state between its two modules, and computes with it."""

    def __init__(self, shape: Any, directly: bool):
        super().__init__()
        self.inner, self.out = nn.Linear(6, 6), nn.Linear(6, 6)
        object.__setattr__(self, "shape", shape)
        if directly:
            self.held = build(shape)
        else:
            self.helper = Helper(build(shape))

    def __call__(self, x: mx.array) -> mx.array:
        y = self.inner(x)
        holder, name = (self, "held") if hasattr(self, "held") else (self.helper, "first")

        def put(value: Any) -> None:
            setattr(holder, name, value)

        seen = mx.tanh(y.sum((0, 1)))
        return self.out(y + self._through(self.shape, getattr(holder, name), put, seen))

    def _through(self, shape: Any, value: Any, put: Put, seen: mx.array) -> Any:
        if isinstance(shape, str):
            return LEAVES[shape][1](value, put, seen)
        if isinstance(value, Counting):
            value.tick()
        total = mx.zeros((6,))
        for key, part in zip(("first", "second"), shape[1:], strict=True):
            if isinstance(value, (dict, list)):
                at = key if isinstance(value, dict) else ("first", "second").index(key)
                item, place = value[at], lambda new, at=at: value.__setitem__(at, new)
            else:
                item, place = getattr(value, key), lambda new, key=key: setattr(value, key, new)
            total = total + self._through(part, item, place, seen)
        return total


# -- traces of every kind ------------------------------------------------------------------------


class Stop(Exception):
    """Raised by a block's user."""


def early(model: Any, x: mx.array, compile: Any) -> mx.array | None:
    with model.trace(x, compile=compile):
        model.inner.output.save()
    return None


def late(model: Any, x: mx.array, compile: Any) -> mx.array | None:
    with model.trace(x, compile=compile):
        model.inner.output += 0.0
        out = model.output.save()
    return out


def looking(model: Any, x: mx.array, compile: Any) -> mx.array | None:
    with model.trace(x, compile="auto") as t:
        float(model.out.input.sum())
        out = model.output.save()
    mx.eval(t.activations["inner"])
    return out


def raising(model: Any, x: mx.array, compile: Any) -> mx.array | None:
    with pytest.raises(Stop), model.trace(x, compile=compile):
        model.inner.output *= 2
        model.output.save()
        raise Stop
    return None


def failing(model: Any, x: mx.array, compile: Any) -> mx.array | None:
    """The forward itself ends in the middle, after the state was changed."""

    def stop(h: mx.array) -> mx.array:
        if float(h.sum()) > -1e9:
            raise Stop
        return h

    with pytest.raises(Stop):
        with model.trace(x, compile=False):
            model.out.input = mg.apply(stop, model.out.input)
            out = model.output.save()
        mx.eval(out)
    return None


def run(model: Any, x: mx.array, compile: Any) -> mx.array | None:
    return model.run(mg.edit("inner", lambda h: h * 1.0) >> READ, x, compile=compile)["output"]


def grad(model: Any, x: mx.array, compile: Any) -> mx.array | None:
    with model.trace(x, compile=compile) as t:
        t.grad(model.output.square().sum(), model.inner.output).save()
        out = model.output.save()
    return out


def nested(model: Any, x: mx.array, compile: Any) -> mx.array | None:
    with model.trace(x, compile=compile):
        with model.trace(x, compile=compile):
            out = model.output.save()
        model.out.output.save()
    return out


def bare(model: Any, x: mx.array, compile: Any) -> mx.array | None:
    """No trace at all: the state moves on."""
    return model.module(x)


READ = mg.read("", name="output")
TRACES = [early, late, looking, raising, failing, run, grad, nested]

# -- the law -------------------------------------------------------------------------------------


def snapshot(value: Any) -> Any:
    """All that an object holds, with its types; arrays by their bits."""
    kind = type(value).__name__
    if isinstance(value, mx.array):
        return kind, str(value.dtype), value.shape, value.tolist()
    if isinstance(value, dict):
        return kind, [(key, snapshot(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return kind, [snapshot(item) for item in value]
    if isinstance(value, Slotted):
        return kind, [snapshot(getattr(value, name)) for name in Slotted.__slots__]
    return (kind, snapshot(vars(value))) if hasattr(value, "__dict__") else value


def state_of(module: Keeping) -> Any:
    return module.held if hasattr(module, "held") else module.helper


def keeps(model: Any, traces: list, compiles: list, seen: Counter) -> None:
    """After each of some traces, with forwards of the bare model in between."""
    module = model.module
    for number, (trace, compile) in enumerate(zip(traces, compiles, strict=True)):
        x = OTHER if number % 3 == 2 else X
        before, held = snapshot(state_of(module)), state_of(module)
        truth = copy.deepcopy(module)(x)
        mx.eval(truth)
        out = trace(model, x, compile)
        assert snapshot(state_of(module)) == before, f"{trace.__name__}, compile={compile}"
        assert state_of(module) is held
        if out is not None:
            assert models.same(out, truth, 1e-5), f"{trace.__name__}, compile={compile}"
        seen[trace] += 1
        if number % 2:
            assert models.same(module(x), truth, 1e-5)
            seen["the bare model moves its state"] += snapshot(state_of(module)) != before


def law(examples: int, compiles: list, steps: int = 4) -> Counter:
    seen: Counter = Counter()

    @settings(max_examples=examples)
    @given(data=st.data())
    def check(data):
        shape, directly = data.draw(SHAPES), data.draw(st.booleans())
        traces = data.draw(st.lists(st.sampled_from(TRACES), min_size=2, max_size=steps))
        how = [data.draw(st.sampled_from(compiles)) for _ in traces]
        note(f"{shape} {[trace.__name__ for trace in traces]} {how}")
        event("a leaf" if isinstance(shape, str) else shape[0])
        seen.update([*leaves_of(shape), "a leaf" if isinstance(shape, str) else shape[0]])
        keeps(models.made(Keeping(shape, directly)), traces, how, seen)

    check()
    return seen


def test_nested_state_is_as_it_was_after_any_trace():
    seen = law(70, [False, False, "auto"])
    assert all(seen[trace] > 1 for trace in TRACES) and all(seen[leaf] for leaf in LEAVES)
    assert seen["the bare model moves its state"] > 20


def test_nested_state_is_as_it_was_after_a_compiled_trace():
    seen = law(5, [True], 2)
    assert seen["the bare model moves its state"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_more_nested_state_is_as_it_was_after_any_trace(compile):
    seen = law(150 if compile else 1500, [compile, "auto"])
    assert all(seen[trace] > 1 for trace in TRACES) and all(seen[kind] for kind in HOLDERS)


@pytest.mark.parametrize("leaf", LEAVES)
def test_state_that_is_moved_is_noticed(leaf):
    """By a forward of the bare model in the place of a trace."""
    model = models.made(Keeping(("slots", leaf, ("dict", leaf, leaf)), False))
    keeps(model, [late], [False], Counter())
    with pytest.raises(AssertionError):
        keeps(model, [bare], [False], Counter())


def test_an_array_that_is_added_to_is_added_to_once_under_a_compiled_slope():
    model = models.made(Keeping("array, added to", False))
    keeps(model, [grad], [True], Counter())
