"""Graphs that are recorded once and run on many inputs never keep a value of the first input."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import LookError, UnboundParamError
from tests import models
from tests.composing.helpers import FRANCE, GERMANY, ROME, apart, exact


def by_numpy(h):
    """Halves by way of numpy: nothing that a recording could follow."""
    return mx.array(np.array(h) * 0.5)


def by_values(h):
    """Looks at a value to decide."""
    return h * 0 if h.max().item() > 1e6 else h * 0.5


@pytest.mark.parametrize("function", [by_numpy, by_values])
def test_a_function_that_needs_values_gets_those_of_each_run(tiny, function):
    opaque = mg.edit("layers.1", function) >> mg.read("__model_output__", name="out")
    half = mg.edit("layers.1", iv.scale(0.5)) >> mg.read("__model_output__", name="out")
    results = [tiny.run(opaque, text)["out"] for text in (FRANCE, "Berlin is a city in Germany")]
    wanted = [tiny.run(half, text)["out"] for text in (FRANCE, "Berlin is a city in Germany")]
    assert all(exact(a, b) for a, b in zip(results, wanted, strict=True))


def test_one_pass_with_such_a_function_serves_several_inputs(tiny):
    graph = mg.edit("layers.1", by_numpy) >> mg.read("__model_output__", name="out")
    half = mg.edit("layers.1", iv.scale(0.5)) >> mg.read("__model_output__", name="out")
    run = partial(tiny.run, graph, compile="auto")
    texts = (ROME, "Paris is", ROME)  # of one length, so of one kind
    for text in texts:
        assert exact(run(text)["out"], tiny.run(half, text, compile=False)["out"])
    assert apart(run(texts[0])["out"], run(texts[1])["out"]) > 0.1


def test_an_applied_function_that_uses_numpy_has_a_shape_in_the_block(tiny):
    with tiny.trace(FRANCE):
        h = tiny.layers[1].output
        half = mg.apply(by_numpy, h)
        assert half.shape == h.shape and half.dtype == h.dtype
        both = mg.apply(lambda a: {"twice": a * 2, "rest": [np.array(a).sum().item()]}, h)
        twice, half, h = both["twice"].save(), half.save(), h.save()
    assert exact(half, h * 0.5) and exact(twice, h * 2)


def test_a_branch_on_a_value_is_refused_where_the_graph_will_be_used_again(tiny):
    @tiny.pass_
    def branching(m):
        h = m.layers[1].output
        if h.max() > 0:
            h *= 0
        return m.output

    with pytest.raises(LookError, match="mx.where"):
        branching(ROME)
    with pytest.raises(LookError, match="mx.where"):
        with tiny.edit() as _:
            if tiny.layers[1].output.max() > 0:
                tiny.layers[1].output = 0
    with tiny.trace(ROME):  # the control: where the inputs are known, a branch is taken
        if tiny.layers[1].output.max() > 0:
            tiny.layers[1].output = 0
        out = tiny.output.save()
    assert exact(out, tiny.run(mg.edit("layers.1", iv.zero_out), ROME).output)


def test_a_choice_by_where_is_made_anew_for_each_input(tiny):
    @tiny.pass_
    def louder(m, limit):
        h = m.layers[1].output
        m.layers[1].output = mx.where(h > limit, h * 2, h)
        return m.layers[1].output

    for text in (ROME, GERMANY):
        h = tiny.run(mg.read("layers.1", name="h"), text)["h"]
        assert exact(louder(text, 0.5), mx.where(h > 0.5, h * 2, h))


def test_a_look_that_needs_a_param_says_so(tiny):
    with pytest.raises(UnboundParamError, match="alpha"):
        with tiny.trace(ROME):
            h = tiny.layers[1].output * mg.param("alpha")
            bool(h.max() > 5)
    with tiny.trace(ROME, params={"alpha": 0.0}):
        assert not bool((tiny.layers[1].output * mg.param("alpha")).max() > 5)


def test_a_look_after_a_weight_has_changed_is_of_the_new_weight():
    model = mg.InterpretableModel(nn.Sequential(nn.Linear(4, 4)))
    model.probe = probe = nn.Linear(4, 4)
    x = mx.ones((2, 4))
    with model.trace(x):
        one = np.array(model.probe(model.layers[0].output))
        probe.weight = probe.weight * 2
        two = np.array(model.probe(model.layers[0].output))
        kept = model.probe(model.layers[0].output).save()
    assert apart(mx.array(two), kept) < 1e-6 and np.abs(one - two).max() > 0.01


LISTS = {
    "a list": lambda h: h.tolist(),
    "changed": lambda h: [[[v * 2 for v in row] for row in rows] for rows in h.tolist()],
    "of numpy": lambda h: (np.array(h) * 2).tolist(),
    "one row": lambda h: h.tolist()[0][0],
}


@pytest.mark.parametrize("name", LISTS)
def test_a_function_that_gives_a_list_gives_an_array_everywhere(tied, tokens, name):
    function = LISTS[name]
    with tied.trace(tokens):
        tied.layers[1].output = mx.array(function(tied.layers[1].output))
        want = tied.output.save()
    graph = mg.edit("layers.1", function)
    with tied.trace(tokens, interventions={"layers.1": function}):
        traced = tied.output.save()
    with tied.trace() as t, t.invoke(tokens, interventions={"layers.1": function}):
        invoked = tied.output.save()
    for one in (traced, invoked, tied.run(graph, tokens).output, tied.edit(graph)(tokens)):
        assert models.same(one, want, 1e-4)
    assert graph == mg.edit("layers.1", function)


def test_a_function_that_gives_several_arrays_is_told_of_one(tied, tokens):
    for function in (lambda h: (h, h), lambda h: {"a": np.array(h)}, lambda h: (np.array(h),) * 30):
        with pytest.raises(mg.MLXGraphError, match="Write an array|Give it one array") as caught:
            tied.run(mg.edit("layers.1", function), tokens)
        assert len(str(caught.value)) < 600
