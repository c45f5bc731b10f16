"""Modules reached in other ways than by the tree: edited all the same, with live weights."""

from __future__ import annotations

import weakref
from collections import OrderedDict, UserList, defaultdict, deque
from functools import cache, lru_cache, partial
from types import MappingProxyType, SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from tests import models
from tests.models import made

COMPILE = [False, True, "auto"]


class Helper:
    """Calls a module that it was given."""

    def __init__(self, inner: Any):
        self.inner = inner

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x)

    def apply(self, x: mx.array) -> mx.array:
        return self.inner(x)


class Slotted:
    __slots__ = ("inner", "__weakref__")

    def __init__(self, inner: Any):
        self.inner = inner

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x)


class HelperOfMany:
    def __init__(self, steps: Any):
        self.steps = steps

    def __call__(self, x: mx.array) -> mx.array:
        for step in self.steps:
            x = step(x)
        return x


def _keyword_default(b):
    def run(x, *, step=b):
        return step(x)

    return run


def _nested_closure(b):
    def outer(x):
        return inner(x)

    def inner(x):
        return [steps[0](x) for _ in range(1)][0]

    steps = (b,)
    return outer


def _recursive_closure(b):
    def run(x, depth=1):
        return b(x) if depth == 0 else run(x, depth - 1)

    return run


def _cached(b):
    @lru_cache(maxsize=4)
    def find():
        return b

    return lambda x: find()(x)


def _cache_of_calls(b):
    @cache
    def run(key):
        return b

    run("filled")
    return lambda x: run("filled")(x)


def _by_helper(b):
    helper = SimpleNamespace(run=Slotted(b))
    table = {Key(helper): helper}
    return KeyedHelper(next(iter(table)), table)


class Key:
    """A key that is itself and nothing else."""

    def __init__(self, of):
        self.of = of


class KeyedHelper:
    def __init__(self, key, table):
        self.key, self.table = key, table

    def __call__(self, x):
        return self.table[self.key].run(x)


def _weak_method(b):
    helper = Helper(b)
    aim = weakref.WeakMethod(helper.apply)
    return partial(lambda kept, x: aim()(x), helper)


def _weak_values(b):
    table = weakref.WeakValueDictionary(b=b)
    return lambda x: table["b"](x)


def _compiled(b):
    return mx.compile(lambda x: b(x))


def _weak_reference(b):
    aim = weakref.ref(b)
    return lambda x: aim()(x)


def _weak_proxy(b):
    aim = weakref.proxy(b)
    return lambda x: aim(x)


WAYS = {
    "a callable helper": Helper,
    "a helper's method": lambda b: Helper(b).apply,
    "a helper of a helper": lambda b: Helper(Helper(b)),
    "slots": Slotted,
    "a list in a helper": lambda b: HelperOfMany([b]),
    "a tuple in a helper": lambda b: HelperOfMany((b,)),
    "a deque in a helper": lambda b: HelperOfMany(deque([b], maxlen=3)),
    "a list in a list in a helper": lambda b: HelperOfMany([HelperOfMany([b])]),
    "a list of a namespace": lambda b: partial(
        lambda s, x: s.steps[0](x), SimpleNamespace(steps=[b])
    ),
    "a read-only mapping": lambda b: partial(lambda m, x: m["b"](x), MappingProxyType({"b": b})),
    "a table by helper": _by_helper,
    "a weak method": _weak_method,
    "a user list": lambda b: HelperOfMany(UserList([b])),
    "a keyword default": _keyword_default,
    "a nested closure": _nested_closure,
    "a recursive closure": _recursive_closure,
    "lru_cache": _cached,
    "a filled cache": _cache_of_calls,
    "a partial of a helper": lambda b: partial(Helper(b)),
    "a weak reference": _weak_reference,
    "a weak proxy": _weak_proxy,
    "weak values": _weak_values,
    "a function made by mx.compile": _compiled,
    "mx.compile of the module": mx.compile,
    "mx.compile of a helper's method": lambda b: mx.compile(Helper(b).apply),
}


class Reaching(nn.Module):
    """Calls its child `b` in some other way, and then by name if told to."""

    def __init__(self, way: Any, again: bool = False):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.way = way(self.b)
        object.__setattr__(self, "again", again)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.way(self.a(x))
        return mx.tanh(self.b(x)) if self.again else x


@pytest.mark.parametrize("compile", COMPILE)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.thin(6)
def test_a_module_reached_in_another_way_is_edited_and_its_weights_are_live(x, way, compile):
    model = made(Reaching(way))
    module = model.module
    for _ in range(3):
        with model.trace(x, compile=compile):
            plain = model.b.output.save()
        assert models.same(plain, module.b(module.a(x)), 1e-5)
        with model.trace(x, compile=compile):
            model.a.output += 1.0
            model.b.output *= 2.0
            out = model.output.save()
        assert models.same(out, module.b(module.a(x) + 1.0) * 2.0, 1e-5)
        module.b.weight = module.b.weight * 2
        mx.eval(module.b.weight)


@pytest.mark.parametrize("way", [WAYS["a weak reference"], WAYS["a callable helper"]])
def test_the_first_call_is_the_first(x, way):
    model = made(Reaching(way, again=True))
    with model.trace(x):
        assert len(model.b.calls) == 2
        first = model.b.output.save()
        second = model.b.calls[1].output.save()
    assert models.same(first, model.module.b(model.module.a(x)), 1e-6)
    assert models.same(second, model.module.b(first), 1e-6)


# -- containers of modules of a class of their own ------------------------------------------------


class Blocks(list):
    """A list that knows how to run."""

    name = "blocks"

    def run(self, x: mx.array) -> mx.array:
        for block in self:
            x = block(x)
        return x * self.gain


class Table(dict):
    def __getattr__(self, name: str) -> Any:
        return self[name]


def _blocks() -> Blocks:
    blocks = Blocks([nn.Linear(6, 6), nn.Linear(6, 6)])
    blocks.gain = 2.0
    return blocks


class Container(nn.Module):
    def __init__(self, held: Any, run: Any):
        super().__init__()
        self.held = held
        object.__setattr__(self, "run", run)

    def __call__(self, x: mx.array) -> mx.array:
        return self.run(self.held, x)


def _default_table() -> Any:
    table = defaultdict(lambda: None)
    table["0"], table["1"] = nn.Linear(6, 6), nn.Linear(6, 6)
    return table


def _pairs(kind: Any) -> Any:
    return kind([("0", nn.Linear(6, 6)), ("1", nn.Linear(6, 6))])


CONTAINERS = {
    "a list subclass": (_blocks, lambda held, x: held.run(x)),
    "a dict subclass": (lambda: _pairs(Table), lambda t, x: getattr(t, "1")(getattr(t, "0")(x))),
    "a defaultdict": (_default_table, lambda t, x: x if t["no"] else t["1"](t["0"](x))),
    "an OrderedDict": (lambda: _pairs(OrderedDict), lambda t, x: t["1"](t["0"](x))),
}


@pytest.mark.parametrize("compile", COMPILE)
@pytest.mark.parametrize("kind", CONTAINERS)
def test_modules_in_containers_of_their_own_class(x, kind, compile):
    make, run = CONTAINERS[kind]
    model = made(Container(make(), run))
    module = model.module
    keys = list(module.held) if isinstance(module.held, dict) else None
    for _ in range(3):
        truth = module(x)
        if isinstance(module.held, defaultdict):
            module.held.pop("no")
        with model.trace(x, compile=compile):
            model["held.0"].output[:, 0] = 0
            first = model["held.0"].output.save()
            given = model["held.1"].input.save()
            plain = model.output.save()
        assert not first[:, 0].any() and models.same(given, first)
        assert models.same(plain[:, 1:], truth[:, 1:], 1e-5)
        if keys is not None:
            assert list(module.held) == keys
        linear = module.held[0] if keys is None else module.held["0"]
        linear.weight = linear.weight * 2


# -- classes that are particular about how they are made ------------------------------------------


class Sized(nn.Module):
    """A constructor of its own."""

    made = 0

    def __new__(cls, width: int) -> Any:
        Sized.made += 1
        return super().__new__(cls)

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x)


class Registered(nn.Module):
    """Subclasses say their name, and are written down."""

    known: dict[str, type] = {}

    def __init_subclass__(cls, /, name: str, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        Registered.known[name] = cls


class Named(Registered, name="named"):
    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x)


class Above(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x)


class Recording(type):
    """A metaclass that writes down every class that it makes."""

    made: list[str] = []

    def __new__(mcs, name: str, bases: tuple, members: dict, width: Any = None) -> Any:
        Recording.made.append(name)
        return super().__new__(mcs, name, bases, members)

    def __init__(cls, name: str, bases: tuple, members: dict, width: Any = None):
        super().__init__(name, bases, members)


class Recorded(Above, metaclass=Recording, width=6):
    pass


class Below(Above):
    def __call__(self, x: mx.array) -> mx.array:
        return super(type(self), self).__call__(x) + 1.0


class BelowByClass(Above):
    def __call__(self, x: mx.array) -> mx.array:
        return super(self.__class__, self).__call__(x) + 1.0


class SlottedModule(Above):
    __slots__ = ("gain",)

    def __init__(self, width: int):
        super().__init__(width)
        object.__setattr__(self, "gain", 3.0)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x) * self.gain


class Around(nn.Module):
    def __init__(self, kind: Any):
        super().__init__()
        self.part = kind(6)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tanh(self.part(x))


@pytest.mark.parametrize("compile", COMPILE)
@pytest.mark.parametrize("kind", [Sized, Named, Recorded, Below, BelowByClass, SlottedModule])
def test_classes_that_are_particular_about_how_they_are_made(x, kind, compile):
    model = made(Around(kind))
    count, known, recorded = Sized.made, dict(Registered.known), list(Recording.made)
    truth = model.module.part(x)
    for _ in range(3):
        with model.trace(x, compile=compile):
            plain = model.part.output.save()
            model.part.inner.output *= 2.0
            model.part.output += 1.0
            out = model.output.save()
        inner = model.module.part.inner(x)
        assert plain.shape == truth.shape
        assert models.same(out, mx.tanh(plain + 1.0), 1e-5)
        assert models.same(plain - truth, inner * (3.0 if kind is SlottedModule else 1.0), 1e-5)
    assert Sized.made == count and Registered.known == known and Recording.made == recorded


# -- what compiles by itself, takes lists, or changes its kind ------------------------------------


class Compiling(nn.Module):
    """Its forward compiles a part of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.compile(lambda h: mx.tanh(self.b(h)))(self.a(x))


class CompilingByHelper(Compiling):
    def __call__(self, x: mx.array) -> mx.array:
        return _run_compiled(self.b, self.a(x))


class CompilingByAttribute(Compiling):
    def __init__(self) -> None:
        super().__init__()
        self.run = _run_compiled

    def __call__(self, x: mx.array) -> mx.array:
        return self.run(self.b, self.a(x))


def _run_compiled(part: Any, x: mx.array) -> mx.array:
    @partial(mx.compile, shapeless=False)
    def run(h: mx.array) -> mx.array:
        return mx.tanh(part(h))

    return run(x)


@pytest.mark.parametrize("compile", COMPILE)
@pytest.mark.parametrize("kind", [Compiling, CompilingByHelper, CompilingByAttribute])
def test_a_forward_that_compiles_by_itself(x, kind, compile):
    model = made(kind)
    module, before = model.module, mx.compile
    for _ in range(3):
        with model.trace(x, compile=compile):
            model.a.output += 1.0
            given = model.b.input.save()
            model.b.output[:, 0] = 0
            inner = model.b.output.save()
            out = model.output.save()
        truth = module.b(module.a(x) + 1.0)
        truth[:, 0] = 0
        assert models.same(given, module.a(x) + 1.0, 1e-5)
        assert models.same(inner, truth, 1e-5) and models.same(out, mx.tanh(truth), 1e-5)
        module.b.weight = module.b.weight * 2
    assert mx.compile is before


class Summing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def __call__(self, parts: list[mx.array], scale: Any = None) -> mx.array:
        assert isinstance(parts, (list, tuple))
        total = sum(self.inner(part) for part in parts)
        return total if scale is None else total * scale["by"][0]


@pytest.mark.parametrize("compile", COMPILE)
def test_a_list_of_arrays_as_an_argument(x, y, compile):
    model = made(Summing)
    inner = model.module.inner
    for given in ([x, y], (x, y), [x, y * 1]):
        with model.trace(given, compile=compile):
            assert len(model.input) == 2
            model.input[0] *= 2.0
            out = model.output.save()
        assert models.same(out, inner(x * 2) + inner(y), 1e-5)
        assert models.same(model(given), inner(x) + inner(y), 1e-5)
    with model.trace([x], {"by": [y]}, compile=compile):
        out = model.output.save()
    assert models.same(out, inner(x) * y, 1e-5)


def test_an_array_that_becomes_a_module_and_back(x):
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = mx.full((6,), 2.0)

        def __call__(self, x):
            return self.gate(x) if isinstance(self.gate, nn.Module) else x * self.gate

    model = made(Gate)
    module = model.module
    for gate in (mx.full((6,), 2.0), nn.Linear(6, 6), mx.full((6,), 3.0), nn.Linear(6, 6)):
        module.gate = gate
        for compile in (True, True, False):
            with model.trace(x, compile=compile):
                out = model.output.save()
            assert models.same(out, module(x), 1e-5)
            if isinstance(gate, nn.Module):
                with model.trace(x, compile=compile):
                    model.gate.output *= 0
                    out = model.output.save()
                assert not out.any()


def test_weights_held_beside_the_tree_are_live(x):
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)
            self.helper = HelperOfMany([nn.Linear(6, 6)])
            self.helper.scale = mx.full((6,), 2.0)

        def __call__(self, x):
            return self.helper(self.inner(x)) * self.helper.scale

    model = made(Beside)
    module = model.module
    for k in range(4):
        with model.trace(x, compile=True):
            model.inner.output += 1.0
            out = model.output.save()
        assert models.same(out, module.helper(module.inner(x) + 1.0) * module.helper.scale, 1e-5)
        module.helper.steps[0].weight = module.helper.steps[0].weight * 1.5
        if k:
            module.helper.scale = module.helper.scale + 1.0
    assert model.compilations == 1 and "helper" not in str(list(model.parameters()))
