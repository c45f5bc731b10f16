"""A sweep is of the model as it is: weights, modules and modes changed before it, or under it."""

from __future__ import annotations

import threading

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import PlanError
from tests.models import VOCABULARY
from tests.sweep.alike import arrays, furthest, loop, moved, off, ways

X = mx.arange(12)[None] * 7 % VOCABULARY
LAST = (slice(None), -1)


def outputs_of(count):
    return [lambda m, k=k: m.layers[k].output for k in range(count)]


def graphs_of(model, x, count):
    return [moved(model, site, x, LAST) for site in outputs_of(count)]


class Mixing(nn.Module):
    """Adds the rows' mean, times a weight, and at some lengths the positions'."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.rows = mx.zeros((1,))

    def __call__(self, x):
        return self.linear(x) + self.rows * x.mean(axis=0, keepdims=True)


class Stack(nn.Module):
    """Layers one after the other, and `output`, an array of 3 axes."""

    def __init__(self, kind, count=3):
        super().__init__()
        self.layers = [kind() for _ in range(count)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("how", ["replaced", "in place"])
def test_rows_that_begin_to_mix_are_seen(how):
    """At first a weight is 0, and rows do not mix."""
    mx.random.seed(1)
    module = Stack(Mixing)
    x = mx.random.normal((2, 3, 6))
    mx.eval(module.parameters(), x)
    model = mg.InterpretableModel(module)
    graphs = graphs_of(model, x, 3)
    before = model.sweep(x, graphs)
    assert {way for way, _ in ways(before)} == {"grown"}
    for layer in module.layers:
        if how == "replaced":
            layer.rows = mx.ones((1,))
        else:
            layer.rows[:] = 1.0
    after = model.sweep(x, graphs)
    assert {way for way, _ in ways(after)} == {"alone"}
    assert furthest(after, loop(model, x, graphs)) < 1
    assert furthest(after, before) > 100


class Sometimes(nn.Module):
    """Mixes rows where there are many of them, or many positions."""

    def __init__(self, rows, positions):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 6)
        self.layers = [nn.Linear(6, 6) for _ in range(3)]
        self.rows, self.positions = rows, positions

    def __call__(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
            if x.shape[0] > self.rows or x.shape[1] > self.positions:
                x = x + x.mean(axis=0, keepdims=True)
        return x


@pytest.mark.parametrize("limits", [(4, 100), (100, 8)], ids=["many rows", "many positions"])
def test_rows_that_mix_only_in_larger_forwards_are_seen(limits):
    """What is certain was tried on a few rows and a few tokens."""
    mx.random.seed(2)
    module = Sometimes(*limits)
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    graphs = graphs_of(model, X, 3) * 4
    want = loop(model, X, graphs)
    assert furthest(model.sweep(X, graphs), want) < 1
    assert furthest(model.sweep(X[:, :6], graphs, batch_size=2), loop(model, X[:, :6], graphs)) < 1
    both = module(mx.concatenate([X, X[:, ::-1]] * 3))
    assert off(both[:1], module(X)) > 1e-2


class Looking(nn.Module):
    """Token ids in; each position may look at all others, as an encoder does."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.layers = [nn.Linear(8, 8) for _ in range(3)]
        self.ahead = mx.zeros((1,))
        self.head = nn.Linear(8, VOCABULARY)

    def __call__(self, ids, cache=None):
        x = self.embed(ids)
        for layer in self.layers:
            x = x + mx.tanh(layer(x)) + self.ahead * x.mean(axis=1, keepdims=True)
        return self.head(x)


def test_positions_that_begin_to_look_ahead_are_seen(monkeypatch):
    from mlxgraph.sweep import split

    monkeypatch.setattr(split, "FORWARD", 0)
    mx.random.seed(2)
    module = Looking()
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    sites = outputs_of(3)
    graphs = [moved(model, site, X, (slice(None), p)) for site in sites for p in (4, 6, 8, 11)]
    assert furthest(model.sweep(X, graphs), loop(model, X, graphs)) < 1
    module.ahead = mx.ones((1,))
    assert furthest(model.sweep(X, graphs), loop(model, X, graphs)) < 1


def test_weights_and_modules_of_now_are_swept(fresh):
    graphs = graphs_of(fresh, X, 3)
    seen = [fresh.sweep(X, graphs)]
    module = fresh.module
    module.model.layers[1].mlp.down_proj.weight = module.model.layers[1].mlp.down_proj.weight * 2
    seen.append(fresh.sweep(X, graphs))
    assert furthest(seen[-1], loop(fresh, X, graphs)) < 1
    module.model.layers[1].mlp.down_proj = nn.Linear(64, 32)
    mx.eval(module.parameters())
    seen.append(fresh.sweep(X, graphs))
    assert furthest(seen[-1], loop(fresh, X, graphs)) < 1
    assert furthest(seen[0], seen[1]) > 100
    assert furthest(seen[1], seen[2]) > 100


class Dropping(nn.Module):
    """Drops half of its values in training."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.dropout = nn.Dropout(0.5)

    def __call__(self, x):
        return self.dropout(self.linear(x))


def test_a_mode_that_draws_runs_one_by_one_in_the_loops_order():
    mx.random.seed(3)
    module = Stack(Dropping)
    x = mx.random.normal((2, 3, 6))
    mx.eval(module.parameters(), x)
    model = mg.InterpretableModel(module)
    module.eval()
    graphs = graphs_of(model, x, 3)
    swept = model.sweep(x, graphs)
    assert {way for way, _ in ways(swept)} == {"grown"}
    module.train()
    mx.random.seed(7)
    want = loop(model, x, graphs)
    mx.random.seed(7)
    drawn = model.sweep(x, graphs)
    assert furthest(drawn, want) < 1
    assert furthest(drawn, swept) > 100
    assert {way for way, _ in ways(drawn)} == {"alone"}


@pytest.mark.parametrize("change", ["weights", "in place", "module", "mode"])
def test_a_plan_is_of_the_model_that_it_was_made_for(fresh, change):
    graphs = graphs_of(fresh, X, 3)
    plan, done = fresh.sweep_plan(X, graphs), fresh.sweep_plan(X, graphs)
    done.run()
    layer = fresh.module.model.layers[1]
    if change == "in place":
        layer.mlp.down_proj.weight[:, 0] = 3.0
    elif change == "weights":
        layer.mlp.down_proj.weight = layer.mlp.down_proj.weight * 2
    elif change == "module":
        layer.mlp.down_proj = nn.Linear(64, 32)
    else:
        fresh.module.train(not fresh.module.training)
    with pytest.raises(PlanError, match="sweep_plan"):
        plan.run()
    assert len(done.run()) == 3  # nothing is left to do


def test_a_sweep_computes_nothing_where_nothing_can_be_computed(tied):
    graphs = graphs_of(tied, X, 3)
    for transformed in (
        mx.compile(lambda x: tied.sweep(x, graphs)[0]["l"]),
        mx.compile(lambda x: tied.sweep(x, graphs, metric=lambda logits: logits[0]).values),
        mx.vmap(lambda x: tied.sweep(x[None], graphs)[0]["l"]),
    ):
        with pytest.raises(PlanError, match="loop of model.run"):
            transformed(X)
    swept = tied.sweep(X, graphs)
    assert {way for way, _ in ways(swept)} == {"grown"}  # that is not taken for the model's doing


def test_gradients_flow_through_a_sweep(fresh):
    graphs = graphs_of(fresh, X, 3)
    part = fresh.module.model.layers[2].mlp.down_proj
    weight = part.weight

    def total(runs, value):
        part.weight = value
        return mx.stack([run["l"].sum() for run in runs()]).sum()

    swept = mx.grad(lambda v: total(lambda: fresh.sweep(X, graphs), v))(weight)
    runs = mx.grad(lambda v: total(lambda: [fresh.run(g, X).saves for g in graphs], v))(weight)
    assert off(swept, runs) < 1e-5
    assert mx.abs(runs).max().item() > 1e-3


def test_a_sweep_in_an_open_block_records_nothing(tied):
    graphs = graphs_of(tied, X, 3)
    want = loop(tied, X, graphs)
    with tied.trace(X) as t:
        tied.layers[1].output[:] *= 2.0
        swept = tied.sweep(X, graphs)
        scored = tied.sweep(X, graphs, metric="kl")
        logits = tied.output[:, -1].save()
    assert furthest(swept, want) < 1
    assert scored.shape == (3,)
    alone = loop(tied, X, [t.graph])[0]
    assert off(logits, arrays(alone)[0]) < 1e-5


def test_sweeps_in_several_threads_are_the_same(fresh):
    sites, positions = outputs_of(3), (2, 7, 11)
    graphs = [moved(fresh, site, X, (slice(None), p)) for site in sites for p in positions]
    want = loop(fresh, X, graphs)
    mx.eval([arrays(one) for one in want], fresh.module.parameters(), X)
    other = mg.InterpretableModel(fresh.module)
    found = []

    def sweep(number):
        some = graphs[number:]
        found.append(furthest(other.sweep(X, some, batch_size=number + 1), want[number:]))

    threads = [threading.Thread(target=sweep, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert max(found) < 1


def test_a_cache_is_as_it_was_given_for_each_variant(fresh):
    from mlx_lm.models.cache import make_prompt_cache

    graphs = graphs_of(fresh, X, 3)

    def cache():
        made = make_prompt_cache(fresh.module)
        fresh.module(X[:, ::-1], cache=made)
        return made

    own = cache()
    swept = fresh.sweep(X, graphs, cache=own)
    want = [fresh.run(graph, X, cache=cache()) for graph in graphs]
    assert furthest(swept, want) < 1
    assert own[0].offset == X.shape[1]
    assert furthest(swept, loop(fresh, X, graphs)) > 100
