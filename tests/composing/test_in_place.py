"""What is changed in place is changed once, and never the model's own weights."""

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import MLXGraphError, PlainArrayError
from tests.composing.helpers import apart, exact


def adds_and_looks(h):
    h += 1
    return h if float(h.sum()) > -1e9 else h * 0


def writes_and_goes_to_numpy(h):
    h[:, 0] = 5.0
    h *= 2
    return mx.array(np.array(h) * 1.0)


def writes_a_row_and_branches(h):
    h[0] += 3
    if h.max().item() > 0:
        h -= 1
    return h


def is_recorded_whole(h):
    h += 1
    h[:, -1] *= 2
    return h


FUNCTIONS = [
    adds_and_looks, writes_and_goes_to_numpy, writes_a_row_and_branches,
    is_recorded_whole,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("how", ["edit", "positions", "input", "interventions", "twice"])
def test_a_function_that_works_in_place_is_applied_once(chain, x, function, how):
    port = "layers.1.input" if how == "input" else "layers.1"
    read = mg.read("layers.1.input" if how == "input" else "layers.1", name="h")
    before = chain.run(read, x)["h"]
    wanted = function(mx.array(before))
    if how == "twice":
        wanted = function(mx.array(wanted))
    if how == "interventions":
        with chain.trace(x, interventions={"layers.1": function}):
            found = chain.layers[1].output.save()
    else:
        positions = slice(0, 4) if how == "positions" else None
        graph = mg.edit(port, function, positions=positions)
        graph = graph >> graph if how == "twice" else graph
        found = chain.run(graph >> read, x)["h"]
    assert apart(found, wanted) < 1e-5 and apart(found, before) > 0.1


def test_a_function_that_returns_what_it_was_given_changes_nothing(chain, x):
    graph = mg.edit("layers.1", lambda h: h)
    assert exact(chain.run(graph, x).output, chain.module(x))


@pytest.fixture
def weight(fresh):
    return fresh.module.model.layers[0].mlp.down_proj.weight


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_weight_taken_from_a_handle_is_a_copy(fresh, tokens, weight, inside, recorded):
    kept = mx.array(weight)

    def multiply():
        factor = 2
        if recorded:
            factor = fresh.layers[0].mlp.output.sum()
        with pytest.raises((MLXGraphError, PlainArrayError)):
            fresh.layers[0].mlp.down_proj.weight *= factor

    if inside:
        with fresh.trace(tokens):
            multiply()
            fresh.output.save()
    elif not recorded:
        multiply()
    own = fresh.layers[0].mlp.down_proj.weight
    own *= 3
    own[0] = 0
    assert fresh.module.model.layers[0].mlp.down_proj.weight is weight
    assert exact(weight, kept) and apart(own, kept) > 1e-3


def test_a_weight_taken_from_a_handle_can_be_recorded_with(fresh, tokens, weight):
    with fresh.trace(tokens):
        h = fresh.layers[0].mlp.down_proj.input
        out = fresh.layers[0].mlp.down_proj.output.save()
        by_hand = (h @ fresh.layers[0].mlp.down_proj.weight.T).save()
    assert apart(out, by_hand) < 1e-5


def test_an_optimiser_step_is_seen_through_the_handle(fresh, weight):
    fresh.module.model.layers[0].mlp.down_proj.weight = weight * 2
    assert exact(fresh.layers[0].mlp.down_proj.weight, weight * 2)


def clipped(h):
    return np.clip(np.array(h), -0.2, 0.2)


def largest(h):
    return float(h.max())


def largest_of_numpy(h):
    return np.array(h).max()


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("function", [clipped, largest, largest_of_numpy])
def test_a_function_that_answers_with_numpy_or_a_number_answers_for_real_values(
    chain, x, function, compile
):
    """Not for the zeros that it is tried on while it is recorded."""
    h = chain.run(mg.read("layers.1", name="h"), x)["h"]
    wanted = mx.broadcast_to(mx.array(function(h)), h.shape)
    assert apart(wanted, h) > 0.05 and apart(wanted, mx.zeros_like(h)) > 0.05
    graph = mg.edit("layers.1", function) >> mg.read("layers.1", name="h")
    found = [chain.run(graph, given, compile=compile)["h"] for given in (x, x)]
    with chain.trace() as t:
        with t.invoke(x, interventions={"layers.1": function}):
            found.append(chain.layers[1].output.save())
    with chain.trace(x, compile=compile) as t:
        answer = mg.apply(function, chain.layers[1].output)
        chain.layers[1].output = mx.broadcast_to(answer, h.shape)
        found.append(chain.layers[1].output.save())
    edited = chain.edit(mg.edit("layers.1", function))
    found.append(edited.run(mg.read("layers.1", name="h"), x)["h"])
    for each in found:
        assert apart(each, wanted) < 1e-5


def test_numbers_in_what_a_function_gives_are_arrays(chain, x):
    h = chain.run(mg.read("layers.1", name="h"), x)["h"]
    with chain.trace(x):
        found = mg.apply(
            lambda a: {"top": int(a[0, -1].argmax()), "any": bool((a > 0).any()), "name": "x"},
            chain.layers[1].output,
        )
        top, some, name = found["top"].save(), found["any"].save(), found["name"]
    assert top.item() == h[0, -1].argmax().item() and some.item() is True and name == "x"
