"""Corners that one meets once: copies, pickles, streams, plain arguments, mx.compile."""

from __future__ import annotations

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import PicklingError
from tests import models
from tests.models import made

MODES = [False, True, "auto"]

# -- mx.compile around a trace that draws ---------------------------------------------------------


def noisy(model, x, mode):
    with model.trace(x, compile=mode):
        h = model.layers[0].output
        h += mx.random.normal(h.shape)
        model.layers[1].output = iv.noise(0.3)(model.layers[1].output)
        out = model.output.save()
    return out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("warm", [0, 2])
def test_compiling_around_a_trace_with_noise(chain, x, mode, warm):
    for _ in range(warm):
        noisy(chain, x, mode)
    state = {"inputs": mx.random.state, "outputs": mx.random.state}
    compiled = mx.compile(lambda x: noisy(chain, x, mode), **state)
    mx.random.seed(4)
    first, second = compiled(x), compiled(x)
    mx.random.seed(4)
    plain, again = noisy(chain, x, False), noisy(chain, x, False)
    assert models.same(first, plain, 1e-5) and models.same(second, again, 1e-5)
    assert not models.same(first, second, 1e-3)
    mx.eval(mx.random.normal((2,)))


def test_compiling_around_a_trace_with_activations_looked_up(chain, x):
    def both(x):
        with chain.trace(x, compile=False) as t:
            chain.layers[0].output = iv.noise(1.0)(chain.layers[0].output)
            out = chain.layers[0].output.save()
        return out, t.activations["layers.0"]

    compiled = mx.compile(both, inputs=mx.random.state, outputs=mx.random.state)
    one, other = compiled(x)
    assert models.same(one, other)
    mx.eval(mx.random.normal((2,)))


# -- copies ---------------------------------------------------------------------------------------


class WithoutDtype(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(6, 6) for _ in range(2)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class WithDtype(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(6, 6) for _ in range(2)]
        self.dtype = mx.float32

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x.astype(self.dtype))
        return x


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("make", [models.Chain, WithDtype])
def test_a_deep_copy_of_a_model_is_another_model(x, used, make):
    model = made(make).edit(mg.edit("layers.0", iv.scale(2.0)))
    model.extra = nn.Linear(6, 6)
    mx.eval(model.extra.module.parameters())
    if used:
        for _ in range(3):
            model(x)
    twin = copy.deepcopy(model)
    before = mx.array(model(x))
    assert twin.module is not model.module and models.same(twin(x), before, 1e-6)
    twin.module.layers[0].weight = twin.module.layers[0].weight * 0
    assert models.same(model(x), before) and not models.same(twin(x), before, 1e-3)
    with twin.trace(x):
        extra = twin.extra(twin.output).save()
        out = twin.output.save()
    assert models.same(extra, model.extra.module(out), 1e-5)


def test_a_copy_of_a_model_shares_its_weights(chain, x):
    twin = copy.copy(chain)
    assert twin.module is chain.module and models.same(twin(x), chain(x))


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


COPIES = {"deep": copy.deepcopy, "pickled": through_pickle}


def test_a_pickled_model_is_another_model(x):
    model = made(WithoutDtype).edit(mg.edit("layers.0", iv.scale(2.0)))
    model.extra = nn.Linear(6, 6)
    for _ in range(3):
        model(x)
    twin = through_pickle(model)
    assert twin.module is not model.module and models.same(twin(x), model(x), 1e-6)
    assert twin.edits == model.edits
    assert model.without_edits().edit(mg.edit("layers.1", iv.zero_out)).compilations
    with twin.trace(x):
        extra = twin.extra(twin.output).save()
    assert models.same(extra, model.extra.module(model(x)), 1e-5)


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_handle_names_the_same_module_of_a_copied_model(x, how):
    model = made(WithoutDtype)
    handles = [model.layers, model.layers[1], model["layers.0"], model.layers[0].calls[0]]
    assert all(copy.copy(handle) is handle for handle in handles)
    for handle in handles:
        twin = COPIES[how](handle)
        assert (twin.path, str(twin), repr(twin)) == (handle.path, str(handle), repr(handle))
        assert twin.module is not handle.module
    other, layer = COPIES[how]((model, model.layers[1]))
    with other.trace(x):
        value = layer.output.save()
    with model.trace(x):
        truth = model.layers[1].output.save()
    assert models.same(value, truth, 1e-6)


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_passes_and_of_what_they_gave(x, how):
    model = made(WithoutDtype)
    graph = mg.edit("layers.0", iv.scale(2.0)) >> mg.read("layers.1", name="h")
    edited = model.edit(mg.edit("layers.1", iv.scale(0.5)))
    for fast in (model.compile(graph), edited.compile(graph)):
        result = fast(x)
        for twin in (COPIES[how](fast)(x), COPIES[how](result)):
            assert models.same(twin["h"], result["h"], 1e-6)
            assert models.same(twin.output, result.output, 1e-6)


def test_a_copied_trace_answers_as_the_trace_does(x):
    model = made(WithoutDtype)
    with model.trace(x) as t:
        model.layers[0].output *= 2
        model.layers[1].output.save("h")
    with model.trace() as several:
        with several.invoke(x):
            model.layers[1].output.save("h")
    for trace in (t, several):
        for twin in (copy.copy(trace), copy.deepcopy(trace)):
            assert twin.graph == trace.graph
            assert models.same(twin.saved_values["h"], trace.saved_values["h"])
    twin = copy.deepcopy(t)
    twin.saved_values.clear()
    assert "h" in t.saved_values and models.same(twin.output, t.output)
    for one in (t, several, t.activations):
        with pytest.raises(PicklingError, match="Pickle t.saved_values, t.graph or the model"):
            pickle.dumps(one)


# -- pickled graphs -------------------------------------------------------------------------------

FUNCTIONS = {
    "scale": iv.scale(0.5),
    "add": iv.add_vector(mx.ones((6,))),
    "replace": iv.replace_with(2.0),
    "clamp": iv.clamp(-0.1, 0.1),
    "zero": iv.zero_out,
    "composed": iv.compose(iv.scale(2.0), iv.clamp(None, 0.3)).build(),
    "a param": iv.scale(mg.param("alpha")),
    "an array param": iv.add_vector(mg.param("v", shape=(6,))),
    "noise": iv.noise(0.2),
}


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_of_interventions_is_pickled(chain, x, name, protocol):
    graph = mg.edit("layers.*", FUNCTIONS[name]) >> mg.read("layers.2", name="h")
    again = pickle.loads(pickle.dumps(graph, protocol))
    assert again == graph and hash(again) == hash(graph) and again.params == graph.params
    given = {"alpha": 0.3, "v": mx.arange(6.0)}
    given = {param: given[param] for param in graph.params}
    results = []
    for one in (graph, again, copy.deepcopy(graph)):
        mx.random.seed(2)
        results.append(chain.run(one, x, **given)["h"])
    assert models.same(results[0], results[1]) and models.same(results[0], results[2])
    assert pickle.loads(pickle.dumps(FUNCTIONS[name])) == FUNCTIONS[name]


# -- streams --------------------------------------------------------------------------------------

STREAMS = {
    "a device type": mx.cpu,
    "a device": mx.Device(mx.cpu, 0),
    "a default stream": mx.default_stream(mx.cpu),
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("mode", MODES)
def test_a_graph_with_a_stream_is_saved_and_pickled(chain, x, kind, mode, tmp_path):
    stream = STREAMS[kind]
    with chain.trace(x, compile=mode) as t:
        h = mx.softmax(chain.layers[0].output, axis=-1, stream=stream)
        chain.layers[0].output = mx.add(h, 1, stream=stream).reshape(2, 4, 6, stream=stream)
        mx.random.normal((2,), stream=stream).save("noise")
        out = chain.output.save("out")
    t.graph.save(tmp_path / "graph.mlxg")
    for graph in (mg.Graph.load(tmp_path / "graph.mlxg"), pickle.loads(pickle.dumps(t.graph))):
        assert graph == t.graph and "cpu" in str(graph)
        assert models.same(chain.run(graph, x)["out"], out, 1e-6)


# -- inputs that hold no array --------------------------------------------------------------------


class Offset(nn.Module):
    def __call__(self, x, offset=0, cache=None):
        return x + offset + (0 if cache is None else cache)


class Number(nn.Module):
    def __call__(self, k):
        return mx.array(1.0) * k


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.add, self.number = Offset(), Number()

    def __call__(self, x):
        return self.add(x * self.number(3), offset=2, cache=None)


def assign(handle, name, value):
    setattr(handle, name, value)


WRITES = {
    "a number for a number": (lambda m, x: assign(m.number, "input", 4), lambda x: 4 * x + 2),
    "an array for a number": (
        lambda m, x: assign(m.number, "input", mx.array(5.0)),
        lambda x: 5 * x + 2,
    ),
    "more of it": (lambda m, x: assign(m.number, "input", m.number.input + 1), lambda x: 4 * x + 2),
    "a recorded value": (
        lambda m, x: assign(m.number, "input", m.input[0, 0, 0] * 0 + 6),
        lambda x: 6 * x + 2,
    ),
    "a keyword": (lambda m, x: m.add.inputs[1].__setitem__("offset", 7), lambda x: 3 * x + 7),
    "an array for None": (
        lambda m, x: m.add.inputs[1].__setitem__("cache", mx.array(10.0)),
        lambda x: 3 * x + 12,
    ),
    "beside an array": (
        lambda m, x: (
            assign(m.add, "input", m.add.input * 2),
            m.add.inputs[1].__setitem__("offset", 1),
        ),
        lambda x: 6 * x + 1,
    ),
    "all of them": (
        lambda m, x: assign(m.add, "inputs", ((m.input,), {"offset": 0, "cache": None})),
        lambda x: x,
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", WRITES)
def test_an_input_that_holds_no_array_is_written(x, case, mode):
    model = made(Plain)
    write, wanted = WRITES[case]
    for _ in range(2):
        with model.trace(x, compile=mode):
            write(model, x)
            out = model.output.save()
    assert models.same(out, wanted(x), 1e-6)
    assert models.same(model(x), 3 * x + 2, 1e-6)
