"""A batch that comes again and again is compiled: the same answers, and compiled once a shape."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.sweep import batch, split
from tests.models import VOCABULARY, WIDTH, make_llama
from tests.sweep.alike import furthest, loop, off, ways

TEXT = mx.arange(12)[None] * 5 % VOCABULARY
LAYERS = 3


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(batch, "SHORT", math.inf)  # however slow the machine is
    return mg.InterpretableModel(make_llama(False, layers=LAYERS, seed=3))


def steered(vector, last):
    graphs = []
    for k in range(LAYERS):
        graph = mg.edit(f"layers.{k}", lambda h: h + vector, positions=last)
        graphs.append(graph >> mg.read("__model_output__", name="out"))
    return graphs


@pytest.mark.parametrize("free", [False, True])
def test_a_compiled_batch_gives_what_a_loop_gives_with_other_values_too(model, monkeypatch, free):
    if free:  # forwards begin at the first edited position
        monkeypatch.setattr(split, "FORWARD", 0)
    results = []
    for n in range(6):
        text = (TEXT + n) % VOCABULARY
        vector = mx.random.normal((WIDTH,), key=mx.random.key(n))
        quieter = mg.edit("layers.2.mlp", lambda h: h * 0.5, positions=10)
        graphs = [g.replace(saves=()) >> quieter for g in steered(vector, 9)]
        plan = model.sweep_plan(text, graphs, metric=lambda logits: logits[7] - logits[3])
        results.append(plan.run().values)
        logits = [model.run(g, text, optimize=False, compile=False).output[0, -1] for g in graphs]
        scores = mx.stack([one[7] - one[3] for one in logits])
        assert mx.allclose(results[-1], scores, atol=1e-4).item()
    assert any(one.start for one in plan.forwards) == free
    assert model.compilations > 0
    assert off(results[4], results[5]) > 1e-3


def test_it_is_compiled_once_a_shape(model):
    vector = mx.random.normal((WIDTH,), key=mx.random.key(0))
    counts = []
    for n in range(6):
        array = n * vector
        swept = model.sweep((TEXT + n) % VOCABULARY, steered(array, 9))
        assert furthest(swept, loop(model, (TEXT + n) % VOCABULARY, steered(array, 9))) < 1
        counts.append(model.compilations)
    assert {way for way, _ in ways(swept)} == {"grown"}
    assert counts[-1] == counts[-2] == counts[0] + 1


def test_changed_weights_are_seen(model):
    graphs = steered(mx.ones((WIDTH,)), 9)
    for _ in range(4):
        first = model.sweep(TEXT, graphs)
    down = model.module.model.layers[1].mlp.down_proj
    down.weight = down.weight * -2.0
    assert furthest(model.sweep(TEXT, graphs), loop(model, TEXT, graphs)) < 1
    assert off(model.sweep(TEXT, graphs)[0]["out"], first[0]["out"]) > 1e-3


def test_what_takes_long_or_cannot_be_looked_into_is_not_compiled(model, monkeypatch):
    seen = []

    def odd(h):
        seen.append(float(mx.max(h)))
        return h * 0.5

    graphs = [mg.edit(f"layers.{k}", lambda h: mg.apply(odd, h)) for k in range(LAYERS)]
    for _ in range(4):
        swept = model.sweep(TEXT, graphs)
    assert furthest(swept, loop(model, TEXT, graphs)) < 1
    before = model.compilations
    monkeypatch.setattr(batch, "SHORT", 0.0)
    for _ in range(4):
        model.sweep(TEXT, steered(mx.ones((WIDTH,)), 9))
    assert model.compilations == before
