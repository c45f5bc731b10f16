"""Params: holes that a run fills.  What they mean, and what fits them."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    MissingParamError,
    NotSavedError,
    ParamError,
    UnboundParamError,
    UnknownNameError,
)
from tests.composing.helpers import apart, exact, plain
from tests.models import WIDTH, make_llama

OUT = mg.read("__model_output__", name="out")


def steering(model, tokens):
    """A recorded graph with a number and a vector left open."""
    with model.trace(tokens) as t:
        h = model.layers[1].output
        h[:, -1] += mg.param("alpha") * mg.param("v", shape=(WIDTH,))
        model.output.save("out")
    return t.graph


def constant(model, tokens, alpha, v):
    """The same with the values written down."""
    with model.trace(tokens):
        model.layers[1].output[:, -1] += alpha * v
        return model.output.save()


@settings(max_examples=10)
@given(st.floats(-3, 3, width=32), st.integers(0, 100))
def test_a_param_equals_a_bound_param_equals_a_constant(tied, tokens, alpha, seed):
    v = mx.random.normal((WIDTH,), key=mx.random.key(seed))
    graph = steering(tied, tokens)
    assert graph.params == ("alpha", "v")
    want = constant(tied, tokens, alpha, v)
    assert exact(tied.run(graph, tokens, alpha=alpha, v=v)["out"], want)
    assert exact(tied.run(graph.bind(alpha=alpha, v=v), tokens)["out"], want)
    assert exact(tied.run(graph.bind(v=v), tokens, alpha=alpha)["out"], want)
    with tied.trace(tokens, graph=graph, alpha=alpha, v=v) as t:
        pass
    assert exact(t.saved_values["out"], want)
    if abs(alpha) > 0.1:
        assert apart(want, plain(tied, tokens)) > 1e-4


def test_new_values_never_compile_anew(fresh, tokens):
    fast = fresh.compile(steering(fresh, tokens))
    v = mx.ones(WIDTH)
    results = [fast(tokens, alpha=a, v=v)["out"] for a in (0.5, 1, 2.0, np.float32(3), mx.array(4))]
    results.append(fast(tokens, alpha=True, v=[1.0] * WIDTH)["out"])
    results.append(fast(tokens, alpha=mx.array(1.0), v=np.ones(WIDTH, np.float64))["out"])
    assert fresh.compilations == 1
    assert apart(results[0], results[1]) > 1e-3
    assert exact(results[1], results[-1]) and exact(results[1], results[-2])
    fast(mx.concatenate([tokens, tokens], axis=1), alpha=1.0, v=v)  # the control: another shape
    assert fresh.compilations == 2


def test_a_pattern_with_a_param_never_compiles_anew(fresh, tokens):
    fast = fresh.compile(mg.edit("layers.*.mlp", iv.scale(mg.param("alpha"))) >> OUT)
    for alpha in (0.0, 0.5, 2):
        want = fresh.run(mg.edit("layers.*.mlp", iv.scale(float(alpha))) >> OUT, tokens)["out"]
        assert apart(fast(tokens, alpha=alpha)["out"], want) < 1e-4
    compiled = fresh.compilations
    fast(tokens, alpha=-3.0)
    assert fresh.compilations == compiled
    assert fast.graph.params == ("alpha",)


def test_running_again_and_again_with_other_values_settles_on_one_pass(fresh, tokens):
    graph = steering(fresh, tokens)
    for alpha in range(5):
        got = fresh.run(graph, tokens, alpha=alpha, v=mx.ones(WIDTH))["out"]
        want = constant(fresh, tokens, float(alpha), mx.ones(WIDTH))
        assert apart(got, want) < 1e-4
    assert fresh.compilations == 2  # the graph and the one with constants


@pytest.mark.parametrize(
    "value", [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.array(2.0),
              mx.array(2.0), mx.array(2), mx.array(2.0, mx.bfloat16)], ids=repr
)  # fmt: skip
def test_a_number_may_come_as_any_kind_of_number(tied, tokens, value):
    graph = mg.edit("layers.1", iv.scale(mg.param("alpha"))) >> OUT
    number = float(value) if not isinstance(value, mx.array) else float(value.item())
    want = tied.run(mg.edit("layers.1", iv.scale(number)) >> OUT, tokens)["out"]
    for compiled in (False, True):
        got = tied.run(graph, tokens, alpha=value, compile=compiled)["out"]
        assert got.dtype == want.dtype and apart(got, want) < 1e-4


@pytest.mark.parametrize("kind", [mx.bfloat16, mx.float16])
def test_numbers_take_the_dtype_that_they_meet(tokens, kind):
    module = make_llama()
    module.set_dtype(kind)
    model = mg.InterpretableModel(module)
    with model.trace(tokens) as t:
        h = model.layers[0].output
        (h * mg.param("alpha")).save("a")
        (mg.param("alpha") + h).save("b")
        (1 - mg.param("alpha") / h).save("c")
        h *= mg.param("alpha")
        model.output.save("out")
    for value in (2.0, 2, np.float32(2), mx.array(2.0)):
        for compiled in (False, True):
            saves = model.run(t.graph, tokens, alpha=value, compile=compiled).saves
            assert {a.dtype for a in saves.values()} == {kind}
    with model.trace(tokens):
        model.layers[0].output *= 2.0
        want = model.output.save()
    assert exact(model.run(t.graph, tokens, alpha=2.0, compile=False)["out"], want)


def test_an_array_param_has_the_dtype_that_it_declares(tied, tokens):
    v = mg.param("v", shape=WIDTH, dtype=mx.bfloat16)
    assert v.shape == (WIDTH,) and v.dtype == mx.bfloat16 and v.ndim == 1
    with tied.trace(tokens) as t:
        assert v.sum().dtype == mx.bfloat16
        (2 * v).save("twice")
        (v[:3] @ v[:3]).save("square")
        tied.layers[0].output += v
        tied.output.save("out")
    for value in (mx.ones(WIDTH), mx.ones(WIDTH, mx.bfloat16), np.ones(WIDTH), [1] * WIDTH):
        saves = tied.run(t.graph, tokens, v=value).saves
        assert saves["twice"].dtype == mx.bfloat16 and saves["out"].dtype == mx.float32
        assert saves["square"].item() == 3.0


def test_a_position_may_be_a_param(tied, tokens):
    p = mg.param("p", shape=(), dtype=mx.int32)
    with tied.trace(tokens) as t:
        tied.layers[1].output[:, p] = 0
        tied.output.save("out")
    fast = tied.compile(t.graph)
    compiled = tied.compilations
    for position in (0, 3, 5):
        want = tied.run(mg.edit("layers.1", iv.zero_out, positions=position) >> OUT, tokens)["out"]
        assert apart(fast(tokens, p=position)["out"], want) < 1e-4
    assert apart(fast(tokens, p=0)["out"], fast(tokens, p=3)["out"]) > 1e-2
    assert tied.compilations == compiled + 1


WRONG = [mx.ones(3), mx.ones((1, WIDTH)), mx.array(1.0), 1.0, "v", None, [[1.0]], 1j]


@pytest.mark.parametrize("value", WRONG, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("how", ["run", "compile", "trace", "block", "bind"])
def test_a_value_that_does_not_fit_raises_before_anything_runs(tied, tokens, how, value):
    with tied.trace(tokens) as t:
        tied.layers[1].output += mg.param("v", shape=(WIDTH,))
        tied.output.save("out")
    graph = t.graph
    with pytest.raises(ParamError, match=r"'v' takes shape \(32,\)"):
        if how == "run":
            tied.run(graph, tokens, v=value)
        elif how == "compile":
            tied.compile(graph)(tokens, v=value)
        elif how == "trace":
            with tied.trace(tokens, graph=graph, v=value):
                pass
        elif how == "block":
            with tied.trace(tokens, params={"v": value}):
                (tied.layers[1].output + mg.param("v", shape=(WIDTH,))).save()
        else:
            graph.bind(v=value)


@pytest.mark.parametrize("value", [mx.ones(3), mx.ones((1,)), "a", None, [1.0], 1j])
def test_a_number_is_one_number(tied, tokens, value):
    graph = mg.edit("layers.1", iv.scale(mg.param("alpha")))
    for run in (tied.run, lambda g, *a, **k: tied.compile(g)(*a, **k)):
        with pytest.raises(ParamError, match="takes a number"):
            run(graph, tokens, alpha=value)


def test_whole_numbers_are_not_made_of_floats(tied, tokens):
    p = mg.param("p", shape=(), dtype=mx.int32)
    with tied.trace(tokens) as t:
        tied.layers[1].output[:, p].save("h")
    assert tied.run(t.graph, tokens, p=2)["h"].shape == (2, WIDTH)
    with pytest.raises(ParamError, match="int32"):
        tied.run(t.graph, tokens, p=2.5)


def test_two_params_of_one_name_must_be_alike(tied, tokens):
    v, number = mg.param("v", shape=(WIDTH,)), mg.param("v")
    with pytest.raises(ParamError, match="another declaration"):
        with tied.trace(tokens):
            tied.layers[1].output += v
            tied.layers[2].output *= number
    both = mg.edit("layers.1", iv.add_vector(v)) >> mg.edit("layers.2", iv.scale(number))
    with pytest.raises(ParamError, match="another declaration"):
        tied.run(both, tokens, v=mx.ones(WIDTH))
    again = mg.edit("layers.1", iv.add_vector(v)) >> mg.edit("layers.2", iv.add_vector(v))
    twice = mg.edit("layers.1", lambda h: h + 1.0) >> mg.edit("layers.2", lambda h: h + 1.0)
    got, want = tied.run(again, tokens, v=mx.ones(WIDTH)), tied.run(twice, tokens)
    assert apart(got.output, want.output) < 1e-5
    assert apart(want.output, plain(tied, tokens)) > 1e-2


def test_a_missing_value_is_named(tied, tokens):
    graph = mg.edit("layers.1", iv.scale(mg.param("alpha")))
    with pytest.raises(MissingParamError, match="alpha="):
        tied.run(graph, tokens)
    with pytest.raises(MissingParamError, match="alpha="):
        tied.compile(graph)(tokens)
    assert apart(tied.run(graph, tokens, alpha=1.0).output, plain(tied, tokens)) < 1e-5


def test_a_value_for_no_param_is_named(tied, tokens):
    graph = mg.edit("layers.1", iv.scale(mg.param("alpha"))) >> OUT
    with pytest.raises(UnknownNameError, match="alpha"):
        tied.run(graph, tokens, alpha=1.0, alhpa=2.0)
    with pytest.raises(UnknownNameError, match="alpha"):
        with tied.trace(tokens, params={"alhpa": 2.0}):
            (tied.layers[1].output * mg.param("alpha")).save()
    with pytest.raises(UnknownNameError, match="alpha"):
        with tied.trace(tokens, graph=graph, params={"alpha": 1.0, "alhpa": 2.0}):
            pass


def test_a_block_without_values_is_recorded_and_not_run(tied, tokens):
    with tied.trace(tokens) as t:
        tied.layers[1].output *= mg.param("alpha")
        out = tied.output.save("out")
    with pytest.raises(UnboundParamError, match="alpha") as caught:
        out + 1
    assert isinstance(caught.value, NotSavedError)
    with pytest.raises(UnboundParamError):
        np.array(out)
    assert t.graph.params == ("alpha",)
    want = tied.run(mg.edit("layers.1", iv.scale(0.5)), tokens).output
    assert exact(tied.run(t.graph, tokens, alpha=0.5)["out"], want)
    with tied.trace(tokens, params={"alpha": 0.5}) as t:
        tied.layers[1].output *= mg.param("alpha")
        out = tied.output.save()
    assert exact(out, want) and exact(t.output, want)


def test_a_block_may_use_its_graphs_params_and_more(tied, tokens):
    graph = mg.edit("layers.0", iv.scale(mg.param("alpha")))
    with tied.trace(tokens, graph=graph, params={"alpha": 0.5, "beta": 3.0}) as t:
        tied.layers[1].output *= mg.param("alpha") * mg.param("beta")
        out = tied.output.save("out")
    both = mg.edit("layers.0", iv.scale(0.5)) >> mg.edit("layers.1", iv.scale(1.5))
    assert apart(tied.run(both, tokens).output, out) < 1e-4
    assert t.graph.params == ("alpha", "beta")
    assert exact(tied.run(t.graph, tokens, alpha=0.5, beta=3.0)["out"], out)


def test_binding_some_params_leaves_the_others_open(tied, tokens):
    graph = steering(tied, tokens)
    half = graph.bind(alpha=2.0)
    assert half.params == ("v",) and half != graph and half == graph.bind(alpha=2.0)
    assert half != graph.bind(alpha=3.0)
    with pytest.raises(UnknownNameError, match="alpha"):
        half.bind(alpha=1.0)


@pytest.mark.parametrize("name", ["", "2a", "a b", "a.b", 3, "compile", "graph"])
def test_a_param_has_a_name_that_can_be_a_keyword(name):
    with pytest.raises(ValueError, match="keyword"):
        mg.param(name)


def test_params_meet_arrays_from_either_side(tied, tokens):
    v, alpha = mx.arange(WIDTH, dtype=mx.float32), mg.param("alpha")
    Q = mg.param("Q", shape=(WIDTH, 2))
    with tied.trace(tokens, params={"alpha": 2.0, "Q": mx.ones((WIDTH, 2))}):
        values = [v * alpha, alpha * v, v - alpha, np.ones(WIDTH) / alpha, v @ Q, Q.T @ v,
                  2 - alpha, mx.add(v, alpha), mx.where(alpha > 1, v, -v), Q.sum(), Q[3],
                  alpha ** 2, -alpha, v < alpha, mx.concatenate([Q, Q], axis=1)]  # fmt: skip
        saved = [value.save() for value in values]
        a = alpha
        a += 1  # makes a value of its own
        more = (a * 1).save()
    two, ones = mx.array(2.0), mx.ones((WIDTH, 2))
    wanted = [v * 2, 2 * v, v - 2, mx.ones(WIDTH) / 2, v @ ones, ones.T @ v, two * 0,
              v + 2, v, ones.sum(), ones[3], two * 2, -two,
              v < 2, mx.ones((WIDTH, 4))]  # fmt: skip
    for got, want in zip(saved, wanted, strict=True):
        assert exact(got, want), (got, want)
    assert more.item() == 3.0


def test_a_param_cannot_be_written_or_turned_into_a_number(tied, tokens):
    v = mg.param("v", shape=(WIDTH,))
    with tied.trace(tokens, params={"v": mx.ones(WIDTH)}):
        with pytest.raises(TypeError, match="copy"):
            v[0] = 1.0
        for turn in (float, int, bool, np.array):
            with pytest.raises(TypeError, match="no value"):
                turn(v)
        mine = mx.array(v)
        mine[0] = 5.0
        mine, v = mine.save(), v.sum().save()
    assert mine[0].item() == 5.0 and v.item() == WIDTH


def test_a_param_used_outside_of_a_block_holds_nothing():
    v = mg.param("v", shape=(WIDTH,))
    with pytest.raises(RuntimeError):
        mx.eval(mx.exp(v))  # MLX's own function, which nothing intercepts here
    import copy
    import pickle

    assert copy.deepcopy(v) is v and repr(pickle.loads(pickle.dumps(v))) == repr(v)


def test_a_param_is_a_value_only_in_a_block():
    alpha = mg.param("alpha")
    with pytest.raises(RuntimeError, match="alpha"):
        alpha + 1
    with pytest.raises(TypeError, match="no value"):
        bool(alpha)
    assert repr(mg.param("v", shape=3)) == "param('v', shape=(3,))"


def test_params_of_a_pattern_print_compare_and_bind():
    one = mg.edit("layers.*", iv.scale(mg.param("alpha")))
    assert one.params == ("alpha",)
    assert one == mg.edit("layers.*", iv.scale(mg.param("alpha")))
    assert one != mg.edit("layers.*", iv.scale(mg.param("beta")))
    assert one != mg.edit("layers.*", iv.scale(2.0))
    assert "alpha" in str(one)


def test_binding_a_param_inside_a_pattern_is_writing_the_number(tied, tokens):
    graph = mg.edit("layers.*.mlp", iv.scale(mg.param("alpha"))) >> OUT
    bound = graph.bind(alpha=0.5)
    assert bound.params == ()
    want = tied.run(mg.edit("layers.*.mlp", iv.scale(0.5)) >> OUT, tokens)["out"]
    assert exact(tied.run(bound, tokens)["out"], want)
