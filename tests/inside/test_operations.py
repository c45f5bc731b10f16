"""Operations: what a module's own forward calls of MLX is a site like any other."""

from __future__ import annotations

import sys
import threading

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    InputError,
    MLXGraphError,
    NeverCalledError,
    NoLayerError,
    OrderError,
    UnknownSiteError,
)
from tests.inside.models import STEPS, WIDTH, Named, NamedAsOperations, Stack, Twice
from tests.models import make_llama

x = mx.random.normal((2, 3, WIDTH), key=mx.random.key(3))


@pytest.fixture
def stack() -> mg.InterpretableModel:
    mx.random.seed(1)
    return mg.InterpretableModel(Stack())


def by_hand(stack, edit=lambda name, value: value):
    """What `Stack` computes, written out; `edit` sees each step of layer 1 by name and number."""
    first, layer = stack.layers
    x1 = x + first(x)
    a = edit(("softmax", 0), mx.softmax(x1, axis=-1))
    b = edit(("softmax", 1), mx.softmax(layer.inner(a), axis=0))
    c = edit(("silu", 0), nn.silu(b))
    d = edit(("gated", 0), nn.sigmoid(c) * x1)
    e = edit(("relu", 0), nn.relu(d)) + edit(("elu", 0), nn.elu(d))
    f = edit(("tanh", 0), mx.tanh(e))
    stopped = edit(("stop_gradient", 0), mx.stop_gradient(f[0]))
    qr = edit(("linalg.qr", 0), mx.linalg.qr(stopped, stream=mx.cpu))
    out = edit(("nn.softmax", 0), mx.softmax(f * qr[0].sum(), axis=-1))
    return mx.exp(x1 + out)


def close(a, b, tolerance=1e-6):
    return a.shape == b.shape and bool(mx.all(mx.abs(a - b) <= tolerance))


def test_every_call_of_the_forward_is_listed_in_its_order_with_number_shapes_and_line(stack):
    with stack.trace(x):
        ops = stack.layers[1].ops
        listed = repr(ops)
        assert [(str(op).partition(".ops.")[2].partition(".calls")[0]) for op in ops] == [
            name for name, _ in STEPS
        ]
        assert len(ops) == len(STEPS) and "silu" in ops and "nn.silu" in ops
        assert "mx.tanh" in ops and "exp" not in ops and "sigmoid" not in ops
        assert ops["tanh"].line.startswith("models.py:")
        assert "exp" in stack.ops  # the model's own
    lines = listed.splitlines()
    assert len(lines) == 1 + len(STEPS)
    assert "['softmax', 1]" in lines[2] and lines[2].split() == (
        "['softmax', 1] (2, 3, 6) float32 -> (2, 3, 6) float32 models.py:35".split()
    )
    numbers = [int(line.rpartition(":")[2]) for line in lines[1:]]
    assert numbers == sorted(numbers)


def test_a_list_is_to_be_had_without_a_block_of_a_model_on_tokens():
    model = mg.InterpretableModel(make_llama())
    ops = model.layers[1].attn.ops
    assert "fast.scaled_dot_product_attention" in repr(ops)
    assert "<table>" in ops._repr_html_()
    with pytest.raises(InputError, match="in a block"):
        len(mg.InterpretableModel(Stack()).layers[0].ops)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(("name", "number"), STEPS)
@pytest.mark.thin(4)
def test_a_step_is_read_as_it_is_computed_and_reading_changes_nothing(stack, name, number, compile):
    seen = {}
    wanted = by_hand(stack.module, lambda step, value: seen.setdefault(step, value))
    plain = stack.module(x)
    with stack.trace(x, compile=compile, optimize=False):
        value = stack.layers[1].ops[name, number].output.save()
        output = stack.output.save()
    if not compile:
        assert mx.array_equal(output, plain)
    assert close(output, wanted)
    if name == "linalg.qr":
        assert close(value[0], seen[name, number][0]) and close(value[1], seen[name, number][1])
    else:
        assert close(value, seen[name, number])


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(("name", "number"), [step for step in STEPS if step[0] != "linalg.qr"])
@pytest.mark.thin(4)
def test_a_step_is_written_where_it_is_computed(stack, name, number, compile):
    def edit(step, value):
        return value * 0.5 + 0.1 if step == (name, number) else value

    with stack.trace(x, compile=compile):
        op = stack.layers[1].ops[name, number]
        op.output = op.output * 0.5 + 0.1
        output = stack.output.save()
    assert close(output, by_hand(stack.module, edit), 1e-5)
    assert not close(output, by_hand(stack.module), 1e-4)


def test_its_inputs_are_those_that_it_was_called_with(stack):
    with stack.trace(x):
        softmax = stack.layers[1].ops["softmax"]
        given, named = softmax.inputs
        first, before = given[0].save(), stack.layers[1].input.save()
        assert named["axis"] == -1
        softmax.input = softmax.input * 2
        output = softmax.output.save()
    assert mx.array_equal(first, before)
    assert close(output, mx.softmax(before * 2, axis=-1))


def test_a_skipped_operation_gives_what_is_said_in_its_place(stack):
    with stack.trace(x):
        layer = stack.layers[1]
        layer.ops["tanh"].skip(layer.ops["elu"].output)
        output = stack.output.save()
    kept = {}

    def edit(step, value):
        kept[step] = value
        return kept["elu", 0] if step == ("tanh", 0) else value

    assert close(output, by_hand(stack.module, edit), 1e-5)


def test_negative_numbers_count_from_the_end(stack):
    with stack.trace(x):
        ops = stack.layers[0].ops
        assert ops["softmax", -1] == ops["softmax", 1] != ops["softmax"]
        assert ops["softmax", 0] == ops["mx.softmax"]


def test_names_mean_operations_in_every_call_that_takes_names(stack):
    halved = by_hand(stack.module, lambda step, v: v * 0.5 if step == ("softmax", 1) else v)
    graph = mg.edit("layers.1.ops.softmax.calls[1]", iv.scale(0.5))
    assert close(stack.run(graph, x).output, halved)
    assert close(stack.compile(graph)(x).output, halved)
    assert close(stack.edit(graph)(x), halved)
    with stack.trace(x, interventions={"layers.1.ops.softmax.calls[1]": iv.scale(0.5)}) as t:
        saved = t.cache("layers.*.ops.tanh")
    assert close(t.output, halved)
    assert sorted(saved) == ["layers.0.ops.tanh", "layers.1.ops.tanh"]
    assert mx.array_equal(t.activations["layers.1.ops.tanh"], saved["layers.1.ops.tanh"])
    assert mx.array_equal(t.get("layers.1.ops.tanh"), saved["layers.1.ops.tanh"])
    assert "layers.1.ops.tanh" not in list(t.activations)  # listed are modules
    moved = mg.edit("layers.0.ops.tanh", iv.zero_out).retarget({"layers.0": "layers.1"})
    zeroed = by_hand(stack.module, lambda step, v: v * 0 if step == ("tanh", 0) else v)
    assert close(stack.run(moved, x).output, zeroed)
    with stack.trace(x) as t:
        stack.layers[0].ops["tanh"].output *= 0
    assert close(stack.run(t.graph.retarget({"layers.0": "layers.1"}), x).output, zeroed)
    handle = stack["layers.1.ops.tanh"]
    assert str(handle) == "layers.1.ops.tanh"
    assert close(stack.run(mg.edit(handle, iv.zero_out), x).output, zeroed)


def test_a_pattern_means_the_modules_that_call_it(stack):
    graph = mg.edit("**.ops.tanh", iv.zero_out, expect=2) >> mg.read("layers.1.ops.tanh", "h")
    assert not mx.any(stack.run(graph, x)["h"])
    with pytest.raises(NeverCalledError, match="calls no 'cos'"):
        stack.run(mg.edit("**.ops.cos", iv.zero_out), x)


def test_a_graph_of_operations_is_saved_and_has_params(stack, tmp_path):
    graph = mg.edit("layers.1.ops.tanh", lambda h: h * mg.param("alpha"))
    doubled = by_hand(stack.module, lambda step, v: v * 2 if step == ("tanh", 0) else v)
    assert close(stack.run(graph, x, alpha=2.0).output, doubled, 1e-5)
    with stack.trace(x) as t:
        stack.layers[1].ops["tanh"].output *= mg.param("alpha")
        stack.output.save("out")
    t.graph.save(tmp_path / "ops.mlxg")
    loaded = mg.Graph.load(tmp_path / "ops.mlxg")
    assert loaded == t.graph
    assert close(stack.run(loaded, x, alpha=2.0)["out"], doubled, 1e-5)


def test_order_holds_between_operations_and_modules(stack):
    with stack.trace(x):
        layer = stack.layers[1]
        layer.ops["tanh"].output[:] = layer.inner.output  # computed by then
        late = layer.ops["tanh"].output
        with pytest.raises(OrderError):
            layer.inner.output = late
        with pytest.raises(OrderError):
            layer.ops["softmax"].output = layer.ops["softmax", 1].output
        early = stack.layers[0].ops["tanh"].output
        layer.ops["softmax"].output = early
        stack.output.save()


def test_gradients_are_taken_at_operations(stack):
    with stack.trace(x) as t:
        h = stack.layers[1].ops["tanh"].output
        slope = t.grad(stack.output.sum(), h).save()
        value = h.save()

    def loss(v):
        first, layer = stack.module.layers
        x1 = x + first(x)
        values, _ = mx.linalg.qr(mx.stop_gradient(v)[0], stream=mx.cpu)
        return mx.exp(x1 + mx.softmax(v * values.sum(), axis=-1)).sum()

    assert close(slope, mx.grad(loss)(value), 1e-5)


def test_several_prompts_each_see_their_own():
    model = mg.InterpretableModel(make_llama())
    ids = [[1, 2, 3], [4, 5, 6, 7, 8]]
    name = "model.layers.1.mlp.ops.swiglu"
    alone = []
    for one in ids:
        with model.trace(one):
            alone.append(model[name].output.save())
    with model.trace() as t:
        with t.invoke(ids[0]):
            first = model[name].output.save()
        with t.invoke(ids[1]):
            model[name].output[:, -1] *= 2
            second = model[name].output.save()
    assert close(first, alone[0])
    assert close(second[:, :-1], alone[1][:, :-1]) and close(second[:, -1], 2 * alone[1][:, -1])


def test_looks_in_the_block_see_operations(stack):
    seen = {}
    by_hand(stack.module, lambda step, value: seen.setdefault(step, value))
    with stack.trace(x):
        h = stack.layers[1].ops["tanh"].output
        assert abs(float(h[0, 0, 0]) - float(seen["tanh", 0][0, 0, 0])) < 1e-6
        assert bool(h.max() <= 1)


def test_nested_blocks_each_have_their_own(stack):
    with stack.trace(x) as outer:
        with stack.trace(x[:1]):
            inner = stack.layers[1].ops["tanh"].output.save()
            assert outer.layers[1].ops["tanh"].output.shape == x.shape
            assert "(1, 3, 6)" in repr(stack.layers[1].ops)
            assert "(2, 3, 6)" in repr(outer.layers[1].ops)
        stack.layers[1].ops["tanh"].output[:1] = inner * 0
        value = mx.softmax(stack.layers[1].ops["tanh"].output, axis=-1).save()
    assert close(value[0], mx.full((3, WIDTH), 1 / WIDTH)) and not close(value[1], value[0])


def test_inside_transformations_of_mlx():
    model = mg.InterpretableModel(make_llama())

    def scaled(alpha):
        with model.trace([3, 1, 4]):
            model.layers[1].mlp.ops["swiglu"].output *= alpha
            logit = model.output[0, -1, 7].save()
        return logit

    half = scaled(mx.array(0.5))
    measured = (scaled(mx.array(0.51)) - scaled(mx.array(0.49))) / 0.02
    assert abs((mx.grad(scaled)(mx.array(0.5)) - measured).item()) < 0.02 * abs(measured.item())
    batch = mx.vmap(scaled)(mx.array([0.5, 2.0]))
    assert close(batch[0], half, 1e-3) and not close(batch[1], half, 1e-2)
    assert close(mx.compile(scaled)(mx.array(0.5)), half, 1e-3)


def test_a_shared_module_is_told_apart_by_its_names():
    model = mg.InterpretableModel(Twice())
    with model.trace(x):
        first, second = (
            model.first.ops["tanh"].output.save(),
            model.second.ops["tanh"].output.save(),
        )
        also = model.first.ops["tanh", 1].output.save()
    assert mx.array_equal(second, also) and not mx.array_equal(first, second)


def test_a_part_that_is_called_ops_wins():
    model = mg.InterpretableModel(Named())
    with model.trace(x):
        assert model.ops.output.shape == x.shape
        model["ops"].output.save()
        with pytest.raises(MLXGraphError):
            model["ops.tanh"].output.save()
    module = NamedAsOperations()
    model = mg.InterpretableModel(module)
    with model.trace(x):
        linear = model["ops.tanh"].output.save()
        other = model.other.ops["exp"].output.save()
        model.other.ops["exp"].output *= 0
        output = model.output.save()
    assert close(linear, module.ops["tanh"](x)) and close(other, mx.exp(x))
    assert close(output, mx.tanh(linear)) and not close(output, module(x))


def test_other_threads_and_what_is_outside_see_nothing(stack):
    plain = (mx.softmax, nn.silu, mx.array)
    seen = []

    class Held(nn.Module):
        def __call__(self, h):
            other = threading.Thread(target=lambda: seen.append(mx.softmax(mx.zeros(2)).tolist()))
            other.start()
            other.join()
            return mx.softmax(h, axis=-1)

    model = mg.InterpretableModel(Held())
    with model.trace(x):
        assert len(model.ops) == 1
        model.ops["softmax"].output *= 0
        output = model.output.save()
    assert not mx.any(output) and all(row == [0.5, 0.5] for row in seen)
    assert plain == (mx.softmax, nn.silu, mx.array)


def test_threads_that_watch_and_threads_that_do_not_run_beside_each_other(stack):
    plain, tanh = stack.module(x), {}
    by_hand(stack.module, lambda step, value: tanh.setdefault(step, value))
    mx.eval(plain, tanh["tanh", 0])
    wrong: list[str] = []
    fresh = mg.InterpretableModel(stack.module)  # which all of them look into for the first time

    def watching():
        for _ in range(20):
            with fresh.trace(x, compile=False):
                value = fresh.layers[1].ops["tanh"].output.save()
                fresh.layers[1].ops["nn.softmax"].output *= 0
            if not close(value, tanh["tanh", 0]):
                wrong.append("an operation")

    def plainly():
        for _ in range(40):
            with fresh.trace(x, compile=False):
                output = fresh.output.save()
            if not close(output, plain):
                wrong.append("an output")

    def safely(one):
        try:
            one()
        except BaseException as error:
            wrong.append(repr(error))

    threads = [
        threading.Thread(target=safely, args=(one,))
        for one in (watching, plainly, watching, plainly)
    ]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


def test_a_forward_that_is_stopped_leaves_the_functions_as_they_were(stack):
    plain = (mx.softmax, nn.silu)

    class Failing(nn.Module):
        fails = False

        def __call__(self, h):
            h = mx.tanh(h)
            if self.fails:
                raise KeyboardInterrupt
            return h

    module = Failing()
    model = mg.InterpretableModel(module)
    with pytest.raises(KeyboardInterrupt), model.trace(x):
        model.ops["tanh"].output.save("h")
        model.output.save()
        Failing.fails = True
    Failing.fails = False
    assert plain == (mx.softmax, nn.silu)
    with model.trace(x):
        h = model.ops["tanh"].output.save()
    assert close(h, mx.tanh(x))


def test_what_an_edit_computes_is_no_operation_of_the_module(stack):
    def edit(h):
        return mx.tanh(h) * float(h[0, 0, 0] * 0 + 1)  # looks: an opaque function

    with stack.trace(x):
        layer = stack.layers[1]
        layer.inner.input = mg.apply(lambda h: mx.tanh(h) * 0 + h, layer.inner.input)
        layer.inner.output = mg.apply(edit, layer.inner.output)
        value = layer.ops["tanh"].output.save()
    kept = {}

    def inner(step, v):
        kept[step] = v
        return v

    class Edited(nn.Module):
        def __init__(self, own):
            super().__init__()
            self.own = own

        def __call__(self, h):
            return mx.tanh(self.own(h))

    own = stack.module.layers[1].inner
    stack.module.layers[1].inner = Edited(own)
    by_hand(stack.module, inner)
    assert close(value, kept["tanh", 0])


def test_a_trace_without_operations_takes_no_census_of_them(stack):
    with stack.trace(x) as t:
        stack.layers[0].output *= 2
        stack.output.save()
    assert not t._recording.census.inside


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda m: m.layers[0].ops["sofmax"].output, NeverCalledError, "Did you mean 'softmax'"),
        (lambda m: m.layers[0].ops["cos"].output, NeverCalledError, "Its .ops are: softmax"),
        (lambda m: m.layers[0].ops["softmax", 2], NoLayerError, "calls 0–1"),
        (lambda m: m["layers.0.ops.softmax.calls[5]"].output, NeverCalledError, "calls it 2 times"),
        (lambda m: m.layers[0].ops[3], InputError, "goes by its name"),
        (lambda m: m.layers[0].ops["tanh"].outputs, UnknownSiteError, "'output'"),
        (lambda m: m.layers[0].pattern, UnknownSiteError, "computes no attention"),
        (lambda m: m["layers.*.ops.tanh"], UnknownSiteError, "layers.0.ops.tanh"),
        (lambda m: m.sites("layers.*.ops.*"), UnknownSiteError, "by its own name"),
    ],
)
def test_what_is_not_there_says_what_is(stack, ask, error, says):
    with stack.trace(x), pytest.raises(error, match=says.replace(".", r"\.")):
        ask(stack)


def test_what_a_compiled_function_calls_is_not_told_wherever_it_is_kept():
    hidden = mx.compile(lambda h: mx.tanh(h))  # in a closure: no name leads there

    class Hiding(nn.Module):
        def __call__(self, h):
            return (lambda: hidden)()(mx.exp(h))

    model = mg.InterpretableModel(Hiding())
    with model.trace(x):
        assert [str(op) for op in model.ops][-1] == "ops.exp"
        output = model.ops["exp"].output.save()
    assert close(output, mx.exp(x), 1e-5)
    with pytest.raises(NeverCalledError, match="calls no 'tanh'"), model.trace(x):
        model.ops["tanh"].output *= 0
    assert close(hidden(x), mx.tanh(x), 1e-5)
