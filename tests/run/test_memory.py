"""Traces leave nothing alive: no recordings, no inputs, no results that nobody holds."""

from __future__ import annotations

import gc
import weakref

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.record.proxy import Proxy
from mlxgraph.record.recording import Recording
from mlxgraph.run import runner
from tests import models
from tests.models import alive


def steer(model, x, number, compile):
    with model.trace(x, compile=compile) as t:
        model.layers[0].output[:, -1] += number
        out = model.output.save()
    return out, t


@pytest.mark.parametrize("compile", [False, True, "auto"])
@pytest.mark.thin(3)
def test_recordings_do_not_outlive_their_traces(chain, x, compile):
    before = alive(Recording, Proxy)
    kept = [steer(chain, x + k, float(k), compile)[0] for k in range(20)]
    mx.eval(kept)
    assert alive(Recording, Proxy) <= before, "a saved value keeps its recording alive"
    before = alive(Recording)
    _, t = steer(chain, x, 1.0, compile)
    assert alive(Recording) == before + 1, "the control: a trace that is held is alive"
    del t
    assert alive(Recording) == before


@pytest.mark.parametrize("compile", [False, True, "auto"])
@pytest.mark.thin(3)
def test_inputs_and_results_are_let_go(chain, compile):
    def work():
        for k in range(10):
            out, t = steer(chain, mx.full((2, 500, 6), float(k)), float(k), compile)
            mx.eval(out)

    work()
    gc.collect()
    before = mx.get_active_memory()
    work()
    gc.collect()
    assert mx.get_active_memory() <= before


def test_a_block_that_raised_is_let_go(chain, x):
    before = alive(Recording)
    for _ in range(5):
        with pytest.raises(ValueError), chain.trace(x):
            chain.layers[0].output += 1
            raise ValueError
    assert alive(Recording) == before


def test_the_nodes_of_forgotten_graphs_are_forgotten(chain, x, monkeypatch):
    from mlxgraph.graph import node

    monkeypatch.setattr(runner, "MOST_PREPARED", 2)
    chain = mg.InterpretableModel(chain.module)

    def work(start):
        for k in range(start, start + 30):
            with chain.trace(x, compile=False) as t:
                chain.layers[0].output[:, : 1 + k % 3, k % 5 :] = 1.0
                (chain.layers[0].output.reshape(1, 1, 2, 4, 6) + 1).save()
        del t

    work(0)
    gc.collect()
    before = len(node._interned)
    work(30)
    gc.collect()
    assert len(node._interned) <= before + 10


# -- functions and old weights ---------------------------------------------------------------------


class Captured:
    """What a function captures: a weak reference tells whether it lives."""


def in_a_block(model, given, function, compile):
    with model.trace(given, compile=compile):
        h = mg.apply(function, model.layers[0].output)
        model.layers[0].output = h + 1
        model.output.save()


FUNCTIONS = {
    "auto": lambda m, x, f: in_a_block(m, x, f, "auto"),
    "eager": lambda m, x, f: in_a_block(m, x, f, False),
    "an edit": lambda m, x, f: m.run(mg.edit("layers.0", lambda h: mg.apply(f, h)), x),
    "a function of passes": lambda m, x, f: m.pass_(lambda m: mg.apply(f, m.layers[0].output))(x),
    "an edited model": lambda m, x, f: m.edit(mg.edit("layers.0", lambda h: mg.apply(f, h)))(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.thin(3)
def test_functions_given_to_apply_do_not_live_on(chain, x, name):
    alive = []
    for _ in range(8):
        captured = Captured()
        alive.append(weakref.ref(captured))

        def function(h, captured=captured):
            return h * 2

        FUNCTIONS[name](chain, x, function)
        FUNCTIONS[name](chain, x, function)
        del captured, function
    gc.collect()
    assert sum(one() is not None for one in alive) == 0


class Big:
    """What a closure holds."""

    def __init__(self):
        self.a = mx.zeros((64, 64))


@pytest.mark.parametrize("form", ["closure", "object", "list", "keyword"])
@pytest.mark.thin(3)
def test_of_functions_given_to_a_pass_only_a_few_live_on(chain, x, form):
    alive = weakref.WeakSet()

    @chain.pass_
    def run(m, given, by=None):
        given = given[0] if isinstance(given, list) else given or by
        return given(m.layers[0].output)

    class Adds(Big):
        def __call__(self, h):
            return h + self.a[0, 0]

    def once():
        big = Adds()
        alive.add(big)
        function = big if form == "object" else lambda h: big(h)
        if form == "keyword":
            return run(x, None, by=function)
        return run(x, [function] if form == "list" else function)

    for _ in range(40):
        mx.eval(once())
    gc.collect()
    assert len(alive) <= 4
    kept = Adds()
    before = mx.array(run(x, kept))
    assert models.same(run(x, kept), before, 0)


def test_of_functions_in_compiled_runs_only_a_few_live_on(chain, x):
    alive = []
    for _ in range(12):
        captured = Captured()
        alive.append(weakref.ref(captured))

        def function(h, captured=captured):
            return h * 2

        in_a_block(chain, x, function, True)
        del captured, function
    gc.collect()
    assert sum(one() is not None for one in alive) <= 4


def padded(model):
    with model.trace([[1, 2, 3], [1]]):
        model.output.save()


def by_hand(model):
    with model.trace([1, 2, 3]):
        h = model.layers[1](model.layers[0].output)
        h.tolist()
        h.save()


def compiled(model):
    for _ in range(2):
        with model.trace([1, 2, 3], compile=True):
            model.output.save()


@pytest.mark.parametrize("use", [padded, by_hand, compiled])
@pytest.mark.thin(3)
def test_old_weights_go_with_the_modules_that_had_them(use):
    llama = models.make_llama()
    model = mg.InterpretableModel(llama)
    kept = model.compile(mg.edit("layers.0", lambda h: h * 2)), model.pass_(lambda m: m.output)
    for one in kept:
        one([1, 2, 3])
    use(model)
    weights = [w for _, w in nn.utils.tree_flatten(llama.parameters()) if w.ndim == 2]
    old = [weakref.ref(weight) for weight in weights]
    del weights
    nn.quantize(llama, group_size=32)
    with model.trace([1, 2, 3]):
        model.output.save()
    gc.collect()
    assert sum(one() is not None for one in old) == 0
