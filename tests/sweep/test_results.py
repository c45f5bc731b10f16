"""What a sweep gives: results by number and label, Effects, and a plan that says what it takes."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import InputError, UnknownNameError, VariantError
from tests.models import VOCABULARY, make_llama
from tests.sweep.alike import furthest, loop, moved, off

X = mx.arange(10)[None] * 7 % VOCABULARY
LAST = (slice(None), -1)


@pytest.fixture(scope="module")
def model():
    return mg.InterpretableModel(make_llama(False, layers=4))


@pytest.fixture(scope="module")
def graphs(model):
    return [moved(model, lambda m, k=k: m.layers[k].output, X, LAST) for k in range(4)]


@pytest.fixture(scope="module")
def want(model, graphs):
    return loop(model, X, graphs)


def test_results_go_by_number(model, graphs, want):
    swept = model.sweep(X, graphs)
    assert len(swept) == 4
    assert furthest([swept[k] for k in (0, -1, 2)], [want[k] for k in (0, 3, 2)]) < 1
    assert furthest(swept[1:3], want[1:3]) < 1
    assert furthest([*swept], want) < 1
    assert furthest([*reversed(swept)], want[::-1]) < 1
    for number in (4, -5):
        with pytest.raises(VariantError, match="from 0 to 3"):
            swept[number]
    for key in ("a", True, None, 0.5):
        with pytest.raises(UnknownNameError):
            swept[key]


def test_results_go_by_label(model, graphs, want):
    swept = model.sweep(X, dict(zip("abcd", graphs, strict=True)))
    assert (
        furthest([swept["b"], swept[0], swept.sel(variant="d")], [want[k] for k in (1, 0, 3)]) < 1
    )
    with pytest.raises(UnknownNameError, match="'c'"):
        swept["cc"]


def test_whole_numbers_that_are_labels_are_labels(model, graphs, want):
    """A dict by layer, from the top down."""
    swept = model.sweep(X, {layer: graphs[layer] for layer in (3, 2, 1)})
    assert furthest([swept[k] for k in (1, 2, 3)], want[1:]) < 1
    assert furthest([*swept], want[:0:-1]) < 1
    for number in (0, -1):
        with pytest.raises(UnknownNameError):
            swept[number]
    effects = model.sweep(X, {layer: graphs[layer] for layer in (3, 2, 1)}, metric=lambda a: a[5])
    assert abs(float(effects.sel(variant=1)) - want[1].saves["l"][0, 5].item()) < 1e-5


def test_parts_of_a_grid(model):
    with model.trace(X) as t:
        model.layers[1].output[:, -1] *= mg.param("a")
        model.layers[2].mlp.output[:, -1] *= mg.param("b")
        model.output[:, -1].save("l")
    swept = model.sweep(X, t.graph, over={"a": [0.5, 2.0], "b": [1.0, 3.0, -1.0]})
    runs = [[loop(model, X, [t.graph], a=a, b=b)[0] for b in (1.0, 3.0, -1.0)] for a in (0.5, 2.0)]
    assert furthest(swept, [*runs[0], *runs[1]]) < 1
    assert furthest([swept.sel(a=2.0, b=3.0)], [runs[1][1]]) < 1
    assert furthest(swept.sel(a=2.0), runs[1]) < 1
    assert furthest(swept.sel(b=-1.0), [runs[0][2], runs[1][2]]) < 1
    assert swept.sel(b=-1.0).axes == {"a": (0.5, 2.0)}
    with pytest.raises(UnknownNameError, match="3.0"):
        swept.sel(b=4.0)
    with pytest.raises(UnknownNameError, match="'a'|b"):
        swept.sel(c=1.0)


def test_duplicates_one_variant_and_variants_that_change_nothing(model, graphs, want):
    nothing = mg.read("layers.1", name="h")
    swept = model.sweep(X, [graphs[1], graphs[1], nothing, graphs[1], mg.chain()])
    others = loop(model, X, [nothing, mg.chain()])
    assert furthest(swept, [want[1], want[1], others[0], want[1], others[1]]) < 1
    for graph in (graphs[2], nothing, mg.chain()):
        assert furthest(model.sweep(X, [graph]), loop(model, X, [graph])) < 1


@pytest.mark.parametrize("metric", ["l2", "kl", "mse", "cosine"])
def test_a_distance_is_from_the_unedited_run(model, graphs, want, metric):
    from mlxgraph.analysis.metrics import METRICS

    base = loop(model, X, [mg.read("__model_output__", name="l")])[0].saves["l"][:, -1]
    swept = model.sweep(X, graphs, metric=metric)
    assert swept.axes == {"variant": (0, 1, 2, 3)}
    for k, one in enumerate(want):
        assert abs(np.asarray(swept)[k] - METRICS[metric](one.saves["l"], base).item()) < 1e-4
    assert min(np.abs(np.asarray(swept))) > 1e-4


def test_a_function_of_two_is_given_the_variants_and_the_unedited_runs(model, graphs, want):
    base = loop(model, X, [mg.read("__model_output__", name="l")])[0].saves["l"][:, -1]
    swept = model.sweep(X, graphs, metric=lambda a, b: a[3] - b[3])
    for k, one in enumerate(want):
        assert abs(np.asarray(swept)[k] - (one.saves["l"] - base)[0, 3].item()) < 1e-5


def test_edits_that_stay_are_part_of_every_run_and_of_the_unedited_one(model, graphs):
    for edit in (
        graphs[0].replace(saves=()),
        mg.edit("layers.*.mlp", iv.scale(0.5)),
        mg.edit("layers.1.mlp", lambda h: h * mg.param("stays")),
    ):
        params = {"stays": 3.0} if "layers.1" in str(edit) else {}
        edited = model.edit(edit)
        swept = edited.sweep(X, graphs, **params)
        assert furthest(swept, loop(edited, X, graphs, **params)) < 1
        assert furthest(swept, loop(model, X, graphs)) > 100
        same = edited.sweep(X, [mg.chain(), graphs[2]], metric="l2", **params)
        assert np.asarray(same)[0] < 1e-4
        assert np.asarray(same)[1] > 1e-2


def test_rows_are_kept_apart(model, graphs):
    two = mx.concatenate([X, (X * 3 + 1) % VOCABULARY])
    effects = model.sweep(two, graphs, metric=lambda a: a[5])
    assert effects.axes == {"variant": (0, 1, 2, 3), "text": (0, 1)}
    runs = loop(model, two, graphs)
    for k, one in enumerate(runs):
        assert np.allclose(np.asarray(effects)[k], np.array(one.saves["l"][:, 5]), atol=1e-5)


class Named(nn.Module):
    """A dict of arrays, the first one of them of 3 axes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def __call__(self, x):
        y = self.first(x)
        return {"y": y, "z": (self.second(y), 3), "n": None}


class Few(nn.Module):
    """Layers that refuse more than five rows."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(6, 6) for _ in range(3)]

    def __call__(self, x):
        for layer in self.layers:
            if x.shape[0] > 5:
                raise ValueError("at most five rows")
            x = layer(x)
        return x


def made(kind):
    mx.random.seed(2)
    module = kind()
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)


def test_outputs_of_several_arrays():
    model, x = made(Named), mx.linspace(-1, 1, 36).reshape(2, 3, 6)
    graphs = []
    for k, name in enumerate(["first", "second"] * 2):
        with model.trace(x) as t:
            model[name].output[:, k % 3] *= 3
            if k > 1:
                model.output.save("all")
        graphs.append(t.graph)
    swept = model.sweep(x, graphs)
    assert furthest(swept, loop(model, x, graphs)) < 1
    assert swept[0].output["z"][1] == 3
    assert model.sweep(x, graphs, metric="l2").shape == (4, 2)


def test_a_batch_that_a_model_refuses_is_run_one_by_one():
    model, x = made(Few), mx.linspace(-1, 1, 18).reshape(1, 3, 6)
    graphs = [moved_here(model, k, x) for k in (0, 1, 2) * 4]
    assert furthest(model.sweep(x, graphs), loop(model, x, graphs)) < 1


def moved_here(model, k, x):
    with model.trace(x) as t:
        model.layers[k].output[:, 1] *= -2.0
    return t.graph


def test_a_model_without_logits_has_no_metric():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def __call__(self, x):
            return self.linear(x).sum()

    model, x = made(Sums), mx.ones((2, 6))
    with pytest.raises(InputError, match="last-position"):
        model.sweep(x, [mg.chain()], metric="l2")
    assert off(model.sweep(x, [mg.chain()] * 2)[0].output, model.run(mg.chain(), x).output) < 1e-5
