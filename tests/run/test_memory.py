"""Traces leave nothing alive: no recordings, no inputs, no results that nobody holds."""

from __future__ import annotations

import gc

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.record.proxy import Proxy
from mlxgraph.record.recording import Recording
from mlxgraph.run import runner
from tests.models import alive


def steer(model, x, number, compile):
    with model.trace(x, compile=compile) as t:
        model.layers[0].output[:, -1] += number
        out = model.output.save()
    return out, t


@pytest.mark.parametrize("compile", [False, True, "auto"])
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
