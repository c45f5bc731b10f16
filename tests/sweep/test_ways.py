"""Which way a sweep goes: where a batch grows, where a forward begins later, and that no way is
another answer."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.sweep import split
from tests.dear import dear
from tests.models import VOCABULARY, make_llama
from tests.sweep.alike import furthest, loop, moved, off, ways

LONG = mx.arange(24)[None] * 7 % VOCABULARY
LAYERS = 4


@pytest.fixture(scope="module")
def deep():
    return mg.InterpretableModel(make_llama(False, layers=LAYERS))


@pytest.fixture
def eager_to_begin_later(monkeypatch):
    """One more forward costs nothing: texts are cut wherever that saves anything."""
    monkeypatch.setattr(split, "FORWARD", 0)


INSIDE = {
    "queries": lambda k: lambda m: m.layers[k].attn.queries,
    "keys": lambda k: lambda m: m.layers[k].attn.keys,
    "values": lambda k: lambda m: m.layers[k].attn.values,
    "scores": lambda k: lambda m: m.layers[k].attn.scores,
    "pattern": lambda k: lambda m: m.layers[k].attn.pattern,
    "heads": lambda k: lambda m: m.layers[k].attn.heads,
    "swiglu": lambda k: lambda m: m.layers[k].mlp.ops["swiglu"].output,
}


@pytest.mark.parametrize(
    "name", [*dear("queries", "keys", "values", "scores", "swiglu"), "pattern", "heads"]
)
def test_a_batch_grows_at_what_attentions_and_operations_hold_on_texts_of_any_length(deep, name):
    graphs = [
        moved(deep, INSIDE[name](k), LONG, (slice(None), index))
        for k in range(LAYERS)
        for index in (0, 1)
    ]
    swept = deep.sweep(LONG, graphs)
    assert {way for way, _ in ways(swept)} == {"grown"}
    assert furthest(swept, loop(deep, LONG, graphs)) < 1


def test_what_is_read_before_the_first_edit_keeps_its_position(deep, eager_to_begin_later):
    """A save at an early position beside the last logits of a late edit."""
    graphs = []
    for k in range(1, LAYERS):
        for position in (12, 13, 16, 20):
            with deep.trace(LONG) as t:
                deep.layers[0].output[:, 1].save("early")
                deep.layers[k].output[:, position] *= -0.7
                deep.layers[k].output[:, position - 1 :].save("late")
                deep.output[:, -1].save("l")
            graphs.append(t.graph)
    swept = deep.sweep(LONG, graphs)
    assert furthest(swept, loop(deep, LONG, graphs)) < 1
    assert off(swept[0]["early"], swept[0]["late"][:, 0]) > 1e-3


def test_runs_that_save_late_positions_alone_begin_there(deep, eager_to_begin_later):
    graphs = []
    for position in (12, 20):
        with deep.trace(LONG) as t:
            deep.layers[1].output[:, position] *= -0.7
            deep.layers[2].output[:, position:].save("late")
            deep.output[:, -1].save("l")
        graphs.append(t.graph)
    swept = deep.sweep(LONG, graphs * 2)
    assert max(start for _, start in ways(swept)) >= 12
    assert furthest(swept, loop(deep, LONG, graphs * 2)) < 1
