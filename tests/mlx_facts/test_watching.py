"""Exchanged functions: who is told of a call, and that MLX's own come back."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlxgraph.mlx_facts import exchange
from mlxgraph.mlx_facts.compiling import compiled_codes
from mlxgraph.mlx_facts.namespaces import Exchanged, class_with
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.watching import (
    is_in_compiled,
    operation_names,
    other_names,
    reach,
    reach_attributes,
    watched,
)

if not exchange._places:  # without the rest of the house nobody has said what blocks want
    places = [(one, exchange.functions_in(one, name)) for one, name in exchange.PLACES]
    exchange.set_recording(places, ())
reach(["tests"])
x = mx.array([1.0, -2.0])


class Watch:
    """Notes what it is told of, and answers with what MLX gives."""

    def __init__(self):
        self.names = []
        self.compiled = []

    def operation(self, name, real, args, kwargs):
        self.names.append(name)
        self.compiled.append(is_in_compiled(sys._getframe(1), None))
        return real(*args, **kwargs)


def test_a_watch_is_told_of_functions_and_of_products_and_of_nothing_else():
    watch = Watch()
    with watched(watch):
        mx.softmax(x)
        mx.fast.rms_norm(x, None, 1e-5)
        nn.silu(x)
        nn.relu(x)
        (x[None] @ x[:, None]) * 2 + 1
        x.sum().reshape(1)
    outer = [name for name in watch.names if name not in ("sigmoid", "maximum")]
    assert outer == ["softmax", "fast.rms_norm", "silu", "relu", "matmul"]
    mx.softmax(x)
    assert watch.names.count("softmax") == 1


def test_what_is_exchanged_comes_back_and_is_told_apart_by_identity():
    own = (mx.softmax, nn.silu, type(mx), vars(ARRAY)["__matmul__"])
    with watched(Watch()):
        assert mx.softmax is not own[0] and nn.silu is not own[1] and type(mx) is not own[2]
        assert vars(ARRAY)["__matmul__"] is not own[3]
        assert mx.softmax.__wrapped__ is own[0]
    assert own == (mx.softmax, nn.silu, type(mx), vars(ARRAY)["__matmul__"])
    assert type(mx) is ModuleType


def test_other_threads_are_not_told_of_and_an_outer_watch_comes_back():
    outer, inner = Watch(), Watch()
    with watched(outer):
        thread = threading.Thread(target=lambda: mx.cos(x))
        thread.start()
        thread.join()
        with watched(inner):
            mx.tanh(x)
        mx.exp(x)
    assert (outer.names, inner.names) == (["exp"], ["tanh"])


def test_a_watch_ends_with_its_statement_whatever_ends_it():
    watch = Watch()
    with pytest.raises(KeyboardInterrupt), watched(watch):
        raise KeyboardInterrupt
    mx.exp(x)
    assert not watch.names and not exchange.watches


def test_names_are_those_of_mlx_without_the_package():
    names = operation_names()
    assert names[id(mx.softmax)] == "softmax" and names[id(nn.softmax)] == "nn.softmax"
    assert names[id(mx.fast.rope)] == "fast.rope" and names[id(mx.linalg.norm)] == "linalg.norm"
    assert names[id(nn.silu)] == "silu" and id(mx.eval) not in names
    assert len({*names.values()}) == len(names)
    assert all(first in names.values() for first in other_names().values())
    if mx.concat is mx.concatenate:
        assert other_names()["concat"] == "concatenate"


def test_functions_that_a_module_of_a_model_holds_are_reached_by_name_and_in_dicts():
    module = ModuleType("a_model_of_ours")
    helper = mx.compile(lambda y: mx.tanh(y))
    module.softmax, module.table, module.helper = mx.softmax, {"silu": nn.silu, 3: "three"}, helper
    sys.modules["a_model_of_ours"] = module
    try:
        reach(["a_model_of_ours"])
        watch = Watch()
        with watched(watch):
            module.softmax(x)
            module.table["silu"](x)
            module.helper(x)
    finally:
        del sys.modules["a_model_of_ours"]
    outer = [name for name in watch.names if name not in ("sigmoid", "tanh")]
    assert outer == ["softmax", "silu", "helper"]
    assert module.softmax is mx.softmax and module.table["silu"] is nn.silu


def test_attributes_of_copies_are_reached():
    module = nn.Linear(2, 2)
    module.act = nn.gelu
    reach_attributes([module])
    watch = Watch()
    with watched(watch):
        module.act(x)
    assert watch.names[0] == "gelu" and module.act is not nn.gelu


def test_code_that_was_compiled_is_known_wherever_it_is_kept():
    def inner(y):
        return mx.sin(y)

    kept = [mx.compile(inner)]
    assert inner.__code__ in set(compiled_codes())
    reach(["tests"])
    watch = Watch()
    with watched(watch):
        kept[0](x)
        mx.cos(x)
    assert watch.compiled[-1] is False
    assert all(watch.compiled[:-1]) and watch.names[-1] == "cos"


def test_entries_that_somebody_else_exchanged_are_left_alone():
    module = ModuleType("m")
    module.a, module.b = 1, 2
    held = Exchanged(vars(module), {"a": 1, "b": 2}, {"a": 10, "b": 20})
    module.b = 5
    assert held.respect_others(0) and held.tables[1] == {"a": 10}
    module.b = 2
    assert held.respect_others(0) and held.tables[1] == {"a": 10, "b": 20}
    module.__class__ = class_with(module, {"a": 1}, {"a": 10})
    assert (module.a, module.b) == (10, 2)
    module.a = 7
    assert module.a == 7
