"""Runs that join a batch on the way: what they share, and what each keeps for itself."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.sweep import split
from mlxgraph.sweep.schedule import Schedule
from tests.models import VOCABULARY, WIDTH, make_llama
from tests.sweep.alike import furthest, off, ways

TEXT = mx.arange(12)[None] * 5 % VOCABULARY
LAYERS = 4


@pytest.fixture(scope="module")
def model():
    return mg.InterpretableModel(make_llama(False, layers=LAYERS, seed=3))


@pytest.fixture(scope="module")
def vector():
    return mx.random.normal((WIDTH,), key=mx.random.key(5))


def alone(model, graphs, text=TEXT):
    return [model.run(graph, text, optimize=False, compile=False) for graph in graphs]


def at(site, **options):
    return mg.edit(site, lambda h: h * -0.7, **options) >> mg.read("__model_output__", name="out")


SITES = [
    f"layers.{k}{part}"
    for k in range(LAYERS)
    for part in ("", ".attn", ".mlp", ".attn.q_proj", ".mlp.down_proj", ".input_layernorm")
]


def test_every_site_joins_where_it_is_and_answers_as_alone(model):
    graphs = [at(site) for site in SITES]
    swept = model.sweep(TEXT, graphs)
    assert {way for way, _ in ways(swept)} == {"grown"}
    assert furthest(swept, alone(model, graphs)) < 1
    assert off(swept[0]["out"], swept[7]["out"]) > 1e-3


def test_runs_without_a_write_are_the_unedited_run(model):
    graphs = [
        mg.read("layers.2", name="out"),
        at("layers.1"),
        mg.read("__model_output__", name="out"),
    ]
    swept = model.sweep(TEXT, graphs)
    assert furthest(swept, alone(model, graphs)) < 1


def test_edits_that_stay_are_done_once_for_all(model, vector):
    """They are in the run that the others join: a sweep costs what it costs on the bare model."""
    stays = mg.edit("layers.0", lambda h: h + vector) >> mg.edit("layers.2.mlp", lambda h: h * 0.5)
    edited = model.edit(stays)
    graphs = [at(f"layers.{k}") for k in range(1, LAYERS)] + [
        at(f"layers.{k}.attn") for k in (1, 2, 3)
    ]
    plan = edited.sweep_plan(TEXT, graphs)
    assert plan.work == model.sweep_plan(TEXT, graphs).work < 0.8 * plan.work_of_a_loop
    swept = plan.run()
    assert furthest(swept, alone(edited, graphs)) < 1
    assert off(swept[0]["out"], alone(model, graphs)[0]["out"]) > 1e-3


def test_a_run_that_edits_otherwise_what_the_others_edit_alike(model, vector):
    stays = mg.edit("layers.0", lambda h: h + vector) >> mg.edit("layers.2.mlp", lambda h: h * 0.5)
    edited = model.edit(stays)
    graphs = [
        at("layers.0"),
        at("layers.2.mlp"),
        at("layers.1"),
        at("layers.3"),
        at("layers.3.mlp"),
    ]
    swept = edited.sweep(TEXT, graphs)
    assert furthest(swept, alone(edited, graphs)) < 1


def test_a_run_that_lacks_what_most_of_the_others_write(model, vector):
    common = mg.edit("layers.1", lambda h: h + vector)
    sites = ("layers.2", "layers.3", "layers.2.mlp", "layers.3.attn", "layers.0.attn")
    graphs = [common >> at(site) for site in sites]
    graphs += [at("layers.3"), at("layers.0.mlp"), mg.read("__model_output__", name="out")]
    swept = model.sweep(TEXT, graphs)
    assert furthest(swept, alone(model, graphs)) < 1
    assert off(swept[1]["out"], swept[5]["out"]) > 1e-3


def test_one_structure_with_other_vectors_is_not_what_all_write_alike(model, vector):
    def steered(array, site):
        return mg.edit("layers.1", lambda h: h + array) >> at(site)

    arrays = (vector, vector, -3.0 * vector, vector)
    graphs = [
        steered(array, f"layers.{k}.mlp") for array, k in zip(arrays, (2, 3, 3, 2), strict=True)
    ]
    swept = model.sweep(TEXT, graphs)
    assert furthest(swept, alone(model, graphs)) < 1
    assert off(swept[1]["out"], swept[2]["out"]) > 1e-3


@pytest.mark.parametrize("begins_later", [False, True])
def test_the_last_layer_runs_at_the_positions_that_are_looked_at(model, monkeypatch, begins_later):
    monkeypatch.setattr(split, "FORWARD", 0)
    if not begins_later:
        monkeypatch.setattr("mlxgraph.sweep.schedule.starts", lambda *_: [0])
    cells = [(k, p) for k in range(LAYERS) for p in range(2, 12)]
    graphs = [mg.edit(f"layers.{k}", lambda h: h * -0.7, positions=p) for k, p in cells]
    plan = model.sweep_plan(TEXT, graphs, metric=lambda logits: logits[7] - logits[3])
    assert any(one.start for one in plan.forwards) == begins_later
    swept = plan.run()
    for graph, score in zip(graphs, swept.values.tolist(), strict=True):
        logits = model.run(graph, TEXT, optimize=False).output[0, -1]
        assert score == pytest.approx((logits[7] - logits[3]).item(), abs=2e-5)
    assert swept.max() - swept.values.min().item() > 1e-2


def test_a_last_layer_that_is_skipped_is_not_run_at_few_positions(model):
    with model.trace(TEXT) as t:
        model.layers[0].skip(model.layers[0].input * 0.5)
        model.output[:, -1].save("out")
    graphs = [t.graph]
    with model.trace(TEXT) as t:
        model["model.embed_tokens"].output *= -1.0
        model.layers[LAYERS - 1].skip(model.layers[LAYERS - 1].input * 0.5)
        model.output[:, -1].save("out")
    graphs.append(t.graph)
    with model.trace(TEXT) as t:
        model["model.embed_tokens"].output[:, 1] *= -1.0
        model.output[:, -1].save("out")
    graphs.append(t.graph)
    schedule = model.sweep_plan(TEXT, graphs, batch_size=1)._schedule
    plans, shared = map(schedule.plan, range(3)), schedule.shared
    assert [shared.is_before(one, shared.last_begins) for one in plans] == [True, False, True]
    swept = model.sweep(TEXT, graphs, batch_size=1)
    assert furthest(swept, alone(model, graphs)) < 1
    assert off(swept[0]["out"], swept[1]["out"]) > 1e-3


class Mixed(nn.Module):
    """Rows that are not independent: each is taken from the mean of all."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(6, 6) for _ in range(3)]

    def __call__(self, x):
        for layer in self.layers:
            x = x + mx.tanh(layer(x)) - mx.mean(x, axis=0, keepdims=True)
        return x


def test_rows_that_depend_on_each_other_run_one_by_one():
    mixed = mg.InterpretableModel(Mixed())
    x = mx.random.normal((2, 4, 6), key=mx.random.key(1))
    graphs = [at(f"layers.{k}") for k in range(3)]
    swept = mixed.sweep(x, graphs)
    assert {way for way, _ in ways(swept)} == {"alone"}
    assert "not what each gives alone" in swept.plan.explain()
    assert furthest(swept, [mixed.run(graph, x) for graph in graphs]) < 1


@pytest.mark.parametrize("inside", ["queries", "values", "pattern", "heads"])
@pytest.mark.thin(3)
def test_runs_that_look_inside_attention_join_beside_a_last_layer_at_few_positions(
    model, monkeypatch, inside
):
    """A metric wants one position of the last layer, which is then called twice."""
    graphs = [mg.edit(f"layers.{k}.attn.{inside}", lambda h: h * 0.5) for k in range(LAYERS - 1)]

    def score(logits):
        return logits[7] - logits[11]

    loop = []
    for graph in graphs:
        with model.trace(TEXT, graph=graph):
            logits = model.output[0, -1].save()
        loop.append(score(logits).item())
    failed = []
    together = Schedule._together

    def joined(self, *chunk):
        try:
            return together(self, *chunk)
        except Exception as error:  # a sweep goes on, one by one
            failed.append(error)
            raise

    monkeypatch.setattr(Schedule, "_together", joined)
    found = model.sweep(TEXT, graphs, metric=score)
    assert not failed
    assert mx.allclose(found.values, mx.array(loop), atol=1e-4)
    assert len(set(loop)) == len(loop)
