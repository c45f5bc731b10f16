"""What a graph asks of a forward: sites that there are, in an order that there is, and no more."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.errors import NeverCalledError, OrderError
from tests import models
from tests.models import made


def recorded(model, *inputs):
    """A graph in which the last layer gets something of the first."""
    with model.trace(*inputs) as t:
        model.layers[2].output += model.layers[0].output
        model.output.save("out")
    return t.graph


@pytest.mark.parametrize("how", ["run", "compile", "trace"])
def test_a_graph_that_needs_a_site_too_late_is_refused(chain, x, how):
    """As recorded it runs; aimed elsewhere it would need layer 2 while layer 1 is written."""
    graph = recorded(chain, x)
    aimed = graph.retarget({"layers.2": "layers.1", "layers.0": "layers.2"})
    with pytest.raises(OrderError, match=r"cannot write layers\.1\.output from layers\.2\.output"):
        used(chain, aimed, x, how)
    used(chain, graph, x, how)


@pytest.mark.parametrize("how", ["run", "compile", "trace"])
def test_a_graph_that_names_what_this_forward_does_not_call_is_refused(chain, x, how):
    short = made(models.Chain(depth=2))
    graph = recorded(chain, x)
    with pytest.raises(NeverCalledError, match=r"layers\.2"):
        used(short, graph, x, how)
    used(short, graph.retarget({"layers.2": "layers.1"}), x, how)


def used(model, graph, x, how):
    if how == "trace":
        with model.trace(x, graph=graph) as t:
            pass
        return t.saved_values["out"]
    return (model.run if how == "run" else lambda g, x: model.compile(g)(x))(graph, x)["out"]


def test_what_no_save_can_see_does_not_count(chain, x):
    """An opaque function would keep a run from being compiled, were it run."""

    def opaque(h):
        return h * 2

    for _ in range(2):
        with chain.trace(x):
            early = chain.layers[0].output.save()
            chain.layers[2].output = mg.apply(opaque, chain.layers[2].output)
        assert models.same(early, chain.module.layers[0](x), 1e-6)
    assert chain.compilations == 1
    for _ in range(2):
        with chain.trace(x):
            chain.layers[0].output = mg.apply(opaque, chain.layers[0].output)
            seen = chain.layers[0].output.save()
        assert models.same(seen, chain.module.layers[0](x) * 2, 1e-6)
    assert chain.compilations == 1, "the control: here it is seen, and so it is not compiled"


def test_what_was_used_longest_ago_is_forgotten_first(chain, x, monkeypatch):
    from mlxgraph.run import runner

    monkeypatch.setattr(runner, "MOST_PREPARED", 2)
    model = mg.InterpretableModel(chain.module)

    def compilations(layer):
        before = model.compilations
        with model.trace(x, compile=True):
            model.layers[layer].output *= 2
            mx.eval(model.output.save())
        return model.compilations - before

    assert [compilations(layer) for layer in (0, 1, 0, 2, 0, 1)] == [1, 1, 0, 1, 0, 1]
