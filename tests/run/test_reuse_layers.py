"""`reuse=True` begins after the last layer that comes before all that a graph reads or writes."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.run.prefix import Prefix
from mlxgraph.trace import reuse_layers
from tests import models
from tests.run.test_reuse import NEAR, TOKENS, off

LAYERS = 4
VECTOR = mx.arange(models.WIDTH) / 8 - 2


@pytest.fixture
def model():
    return mg.InterpretableModel(models.make_llama(False, layers=LAYERS))


@pytest.fixture
def begun(monkeypatch):
    """After which layers runs began."""
    found = []
    real = reuse_layers.going_on_from

    def noted(graph, layer, stream):
        if graph.writes:
            found.append(layer)
        return real(graph, layer, stream)

    monkeypatch.setattr("mlxgraph.trace.reuse.going_on_from", noted)
    return found


def everywhere(model, layer, early=None):
    with model.trace(TOKENS) as t:
        if early is not None:
            model.layers[early].output.save("early")
        model.layers[layer].output += VECTOR
        model.output[:, -1].save("last")
    return t.graph


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.thin(3)
def test_an_edit_at_all_positions_begins_after_the_layer_before(model, begun, layer, compile):
    graph = everywhere(model, layer)
    for _ in range(3):
        mine = model.run(graph, TOKENS, reuse=True, compile=compile)["last"]
        whole = model.run(graph, TOKENS, compile=False)["last"]
        assert off(mine, whole) < NEAR
    assert set(begun) == ({f"model.layers.{layer - 1}"} if layer else set())
    plain = model.run(mg.read("__model_output__", name="o"), TOKENS)["o"][:, -1]
    assert off(whole, plain) > 1e-2


def test_what_is_read_before_the_edit_is_computed(model, begun):
    graph = everywhere(model, 3, early=1)
    mine, whole = (model.run(graph, TOKENS, reuse=reuse) for reuse in (True, False))
    assert off(mine["last"], whole["last"]) < NEAR
    assert off(mine["early"], whole["early"]) < NEAR
    assert begun == ["model.layers.0"]


def test_layers_and_tokens_together(model, begun):
    with model.trace(TOKENS) as t:
        model.layers[2].mlp.output[:, -2:] *= mg.param("alpha")
        model.output[:, -1].save("last")
    for alpha in (0.0, 3.0):
        mine, whole = (
            model.run(t.graph, TOKENS, reuse=reuse, alpha=alpha)["last"] for reuse in (True, False)
        )
        assert off(mine, whole) < NEAR
    assert set(begun) == {"model.layers.1"}
    said = model.explain(t.graph, TOKENS, reuse=True, alpha=1.0)
    assert "begin at token 6 of 8" in said
    assert "after model.layers.1, which is kept" in said


def test_other_weights_are_another_run(model, begun):
    graph = everywhere(model, 3)
    before = model.run(graph, TOKENS, reuse=True)["last"]
    mlp = model.module.model.layers[0].mlp
    mlp.down_proj.weight = mlp.down_proj.weight * -1.5
    mine, whole = (model.run(graph, TOKENS, reuse=reuse)["last"] for reuse in (True, False))
    assert off(mine, whole) < NEAR
    assert off(before, whole) > 1e-2
    assert len(begun) == 2


def test_a_layer_that_does_not_give_all_that_others_take_is_not_skipped(model, begun, monkeypatch):
    """What is kept is tried: here it is another stream than the model's own."""
    real = Prefix.__init__

    def wrong(self, tokens, output, watched, streams):
        real(self, tokens, output, watched, {path: array + 1 for path, array in streams.items()})

    monkeypatch.setattr(Prefix, "__init__", wrong)
    graph = everywhere(model, 3)
    mine, whole = (model.run(graph, TOKENS, reuse=reuse)["last"] for reuse in (True, False))
    assert off(mine, whole) < NEAR
    assert begun == []
