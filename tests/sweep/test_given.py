"""What a sweep is given: graphs, values of params, limits; each mistake ends on the user's line."""

from __future__ import annotations

import traceback

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import (
    InputError,
    MissingParamError,
    NotAGraphError,
    ParamError,
    ScoreError,
    UnknownNameError,
)
from mlxgraph.sweep.variants import given_of
from tests.sweep.alike import furthest, loop, moved

X = mx.array([[1, 7, 3, 9, 4, 2]])


@pytest.fixture(scope="module")
def graphs(tied):
    return [moved(tied, lambda m, k=k: m.layers[k].output, X, (slice(None), -1)) for k in range(3)]


@pytest.fixture(scope="module")
def scaled(tied):
    """A graph with a param `alpha`."""
    with tied.trace(X) as t:
        tied.layers[1].mlp.output *= mg.param("alpha")
        tied.output[:, -1].save("l")
    return t.graph


NOTHING = [[], {}, (), iter(())]


@pytest.mark.parametrize("nothing", NOTHING, ids=range(len(NOTHING)))
def test_nothing_is_not_swept(tied, nothing):
    with pytest.raises(InputError, match="nothing to sweep"):
        tied.sweep(X, nothing)


@pytest.mark.parametrize("given", [None, 3, "g", b"g", [1], {"a": None}])
def test_what_is_no_graph_is_refused(tied, given):
    with pytest.raises(NotAGraphError):
        tied.sweep(X, given)


def test_graphs_come_as_lists_dicts_generators_traces_or_one(tied, graphs):
    want = loop(tied, X, graphs)
    for given in (graphs, tuple(graphs), iter(graphs), dict(zip("abc", graphs, strict=True))):
        assert furthest(tied.sweep(X, given), want) < 1
    with tied.trace(X) as t:
        tied.layers[0].output[:, -1] *= -0.7
        tied.output[:, -1].save("l")
    assert furthest(tied.sweep(X, [t, graphs[1]]), want[:2]) < 1
    assert furthest(tied.sweep(X, t), want[:1]) < 1


OVER = {
    "several graphs": (lambda g: [g, g], {"alpha": [1.0]}, InputError, "one graph"),
    "a list": (lambda g: g, [1.0], InputError, "names"),
    "an empty dict": (lambda g: g, {}, InputError, "names"),
    "an unknown name": (lambda g: g, {"beta": [1.0]}, UnknownNameError, "beta"),
    "a name that is a number": (lambda g: g, {1: [1.0]}, UnknownNameError, "1"),
    "no values": (lambda g: g, {"alpha": []}, InputError, "no values"),
    "one value": (lambda g: g, {"alpha": 1.0}, InputError, r"\[1.0\]"),
    "a scalar array": (lambda g: g, {"alpha": mx.array(1.0)}, InputError, "list"),
    "a text": (lambda g: g, {"alpha": "abc"}, InputError, "list"),
    "a dict": (lambda g: g, {"alpha": {"a": 1}}, InputError, "list"),
    "texts": (lambda g: g, {"alpha": ["a"]}, ParamError, "str"),
    "vectors": (lambda g: g, {"alpha": mx.zeros((2, 3))}, ParamError, "shape"),
}


@pytest.mark.parametrize("name", OVER)
def test_what_is_over_has_to_be_values_of_params(tied, scaled, name):
    graphs, over, error, words = OVER[name]
    with pytest.raises(error, match=words) as caught:
        tied.sweep(X, graphs(scaled), over=over)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


def test_a_param_has_one_value(tied, scaled):
    with pytest.raises(InputError, match="over="):
        tied.sweep(X, scaled, over={"alpha": [1.0]}, alpha=2.0)
    with pytest.raises(MissingParamError, match="alpha"):
        tied.sweep(X, [scaled, scaled])


@pytest.mark.parametrize(
    "values",
    [[0.5, 2], (0.5, 2.0), np.array([0.5, 2.0]), mx.array([0.5, 2.0]), map(float, ["0.5", "2"])],
    ids=["list", "tuple", "numpy", "mlx", "map"],
)
def test_values_come_in_any_row(tied, scaled, values):
    swept = tied.sweep(X, scaled, over={"alpha": values})
    assert swept.axes == {"alpha": (0.5, 2)}
    assert furthest([swept.sel(alpha=2)], loop(tied, X, [scaled], alpha=2.0)) < 1
    assert furthest([swept.sel(alpha=0.5)], loop(tied, X, [scaled], alpha=2.0)) > 100


def test_params_that_all_graphs_share_are_keywords_as_in_a_run(tied, scaled, graphs):
    swept = tied.sweep(X, [scaled, graphs[0]], alpha=2.0)
    assert furthest(swept, loop(tied, X, [scaled], alpha=2.0) + loop(tied, X, graphs[:1])) < 1
    deferred = mg.edit("layers.2.mlp", lambda h: h * mg.param("alpha"))
    swept = tied.sweep(X, [deferred, scaled], alpha=2.0)
    assert furthest(swept, loop(tied, X, [deferred, scaled], alpha=2.0)) < 1
    with pytest.raises(UnknownNameError, match="beta"):
        tied.sweep(X, [deferred], alpha=2.0, beta=1.0)


LIMITS = {
    "batch_size": [0, -1, 2.5, True, "4", [1]],
    "memory_limit": [0, -1, 2.5, True, "4GB"],
    "progress": ["yes", 2],
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_whole_numbers(tied, graphs, name):
    for value in LIMITS[name]:
        with pytest.raises(InputError, match=name):
            tied.sweep(X, graphs, **{name: value})


@pytest.mark.parametrize(
    "metric", [lambda a: a, lambda a: "x", lambda a: None, lambda a, b: a - b, lambda a: [1, 2]]
)
def test_a_metric_gives_a_number(tied, graphs, metric):
    with pytest.raises(ScoreError):
        tied.sweep(X, graphs, metric=metric)


@pytest.mark.parametrize("metric", ["nope", 3])
def test_a_metric_is_known_or_a_function(tied, graphs, metric):
    with pytest.raises(UnknownNameError, match="kl"):
        tied.sweep(X, graphs, metric=metric)


def test_labels_that_are_none_are_refused_before_anything_runs(tied, scaled, graphs):
    asked = []

    def score(logits):
        asked.append(logits)
        return logits[0]

    for values in ([1.0, 1.0], [1.0, float("nan")]):
        with pytest.raises(InputError, match="label"):
            tied.sweep(X, scaled, over={"alpha": values}, metric=score)
    with pytest.raises(InputError, match="label"):
        tied.sweep(X, {("a", 1): graphs[0], "b": graphs[1]}, metric=score)
    assert not asked


def test_a_grid_has_the_last_param_fastest():
    with mg.tiny().trace("a") as t:
        pass
    graph = t.graph >> mg.edit("layers.1.mlp", lambda h: h * mg.param("a") + mg.param("b"))
    given = given_of(graph, {"a": [1.0, 2.0], "b": [mx.zeros(2), 5]})
    assert [cell["a"] for cell in given.params] == [1.0, 1.0, 2.0, 2.0]
    assert given.params[1]["b"] == 5
    assert given.axes == {"a": (1.0, 2.0), "b": (0, 5)}


def test_a_sweep_of_the_answers_of_one_graph_with_other_numbers(tied):
    """Numbers, vectors and positions."""
    with tied.trace(X) as t:
        tied.layers[1].output[:, mg.param("where", shape=(), dtype=mx.int32)] += mg.param(
            "v", shape=(32,)
        )
        tied.output[:, -1].save("l")
    vectors = [mx.ones(32), mx.linspace(-1, 1, 32)]
    swept = tied.sweep(X, t.graph, over={"where": [1, 4, -1], "v": vectors})
    want = [
        tied.run(t.graph, X, where=w, v=v, optimize=False, compile=False)
        for w in (1, 4, -1)
        for v in vectors
    ]
    assert furthest(swept, want) < 1
    assert furthest(swept[:2], want[2:4]) > 100
    assert furthest(swept.sel(where=4), want[2:4]) < 1
    with pytest.raises(IndexError):
        tied.sweep(X, t.graph, over={"where": [1, 60], "v": vectors})
