"""What people do with a block that is over, with its values and with what opens one: refused on
their own line, with what to write."""

from __future__ import annotations

import traceback

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn import relu

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    EscapedError,
    InputError,
    MLXGraphError,
    NeverCalledError,
    NotAGraphError,
    NotEnteredError,
    NotSavedError,
    UnknownNameError,
    UnknownSiteError,
)


def put(h):
    h[0] = 1


def augment(h):
    h += 1


def raise_to(h):
    h **= 2


DEAD = {
    "an item": put,
    "in place": augment,
    "to a power in place": raise_to,
    "a power": lambda h: h**2,
    "a loop": lambda h: [row for row in h],
    "format": lambda h: f"{h:.3f}",
    "complex": complex,
    "numpy": np.abs,
    "numpy's sum": lambda h: np.ones((1,)) + h,
}


def dead(model):
    with model.trace([1, 2]):
        h = model.layers[2].output
    return h


@pytest.mark.parametrize("name", DEAD)
def test_a_value_that_was_not_saved_says_so_on_its_line(tiny, name):
    h = dead(tiny)
    with pytest.raises(NotSavedError, match="was not saved") as caught:
        DEAD[name](h)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


def test_a_module_called_by_hand_on_one_says_so_too(tiny):
    h = dead(tiny)
    for call in (
        lambda: tiny.layers[2](h),
        lambda: tiny.model.norm(h),
        lambda: tiny.model(h),
    ):
        with pytest.raises(NotSavedError) as caught:
            call()
        assert traceback.extract_tb(caught.tb)[-1].filename == __file__


def test_an_output_that_waits_is_not_shown_as_none(tiny):
    result = tiny.run(mg.read("layers.1", name="h"), "The")
    assert repr(result).endswith("output=<computed when looked at>)")
    assert result.output.shape[-1] == 1014
    assert repr(result).endswith("dtype=float32))")


def test_names_of_results_are_answered(tiny):
    with tiny.trace([1, 2]) as t:
        tiny.layers[1].output.save("h")
    for name, said in {
        "logits": "t.output",
        "saves": "t.saved_values",
        "saved": "t.saved_values",
    }.items():
        with pytest.raises(UnknownSiteError, match=said):
            getattr(t, name)
    for name in ("h", "layers.1"):
        with pytest.raises(UnknownNameError, match=rf"t.saved_values\['{name}'\]") as caught:
            t[name]
        assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize("name", ["retarget", "without", "save", "bind", "to_dot"])
def test_a_finished_trace_names_its_graph(tiny, name):
    with tiny.trace([1, 2]) as t:
        tiny.layers[1].output *= 2
    with pytest.raises(UnknownSiteError, match=rf"Write t.graph.{name}"):
        getattr(t, name)
    assert callable(getattr(t.graph, name))


@pytest.mark.parametrize("params", [3, "alpha", [("alpha", 1)], {1: 2}])
def test_params_that_are_no_mapping_of_names(tiny, params):
    for call in (
        lambda: tiny.trace([1, 2], params=params),
        lambda: tiny.trace(params=params),
    ):
        with pytest.raises(InputError, match=r"params=\{'alpha': 0.5\}"):
            call()


def test_a_layer_that_a_retargeted_graph_lacks_is_counted(tiny):
    with tiny.trace([1, 2]) as t:
        tiny.layers[1].mlp.output *= 0.5
    graph = t.graph.retarget({"layers.1": "layers.99"})
    for call in (
        lambda: tiny.run(graph, [1, 2]),
        lambda: tiny.edit(graph)([1, 2]),
        lambda: tiny.explain(graph, [1, 2]),
    ):
        with pytest.raises(NeverCalledError, match="layers 0–5"):
            call()


MIXED = {
    "a name and a function": ("layers.2", iv.zero_out),
    "a function": (iv.zero_out,),
    "a dict": ({"layers.2": iv.zero_out},),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mg_edit_takes_is_not_what_a_model_is_edited_with(tiny, name):
    with pytest.raises(NotAGraphError, match=r"model.edit\(mg.edit\('layers.2'"):
        tiny.edit(*MIXED[name])


def test_an_edit_that_was_not_opened_is_no_model(tiny):
    for use in (lambda m: m([1, 2]), lambda m: m.trace([1, 2]), lambda m: m.layers):
        for block in (tiny.edit(), tiny.edit(None)):
            with pytest.raises(NotEnteredError, match="with model.edit"):
                use(block)
    assert not hasattr(tiny.edit(), "_no_such")


def by_use(model):
    h = relu(model.layers[2].output)
    h.save()


def by_writing(model):
    model.layers[2].output = relu(model.layers[2].output)


@pytest.mark.parametrize("use", [by_use, by_writing])
def test_what_escaped_is_said_without_another_functions_name(tiny, use):
    with pytest.raises(EscapedError, match=r"nn.relu\(h\)") as caught, tiny.trace([1, 2]):
        use(tiny)
    assert isinstance(caught.value, MLXGraphError)
    if use is by_use:
        assert traceback.extract_tb(caught.tb)[-1].name == "by_use"
        assert caught.value.__suppress_context__
    assert mx.array(1).item() == 1
