"""`resid_pre`, `resid_mid`, `resid_post`: the residual stream at a layer, by name."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    NeverCalledError,
    OrderError,
    OutsideTraceError,
    StaleHandleError,
    UnknownSiteError,
)
from tests import models
from tests.analysis.llama_by_hand import by_hand
from tests.architectures import configs

IDS = [7, 21, 3, 38, 40, 5]
TOKENS = mx.array([IDS])
LENGTH = len(IDS)
# name -> what is given the stream between the parts: a norm, or the MLP itself
ARCHITECTURES = {
    "llama": "post_attention_layernorm",
    "gpt2": "ln_2",
    "gemma2": "pre_feedforward_layernorm",  # a norm after attention too
    "olmo2": "mlp",  # norms only after the parts
    "granite": "post_attention_layernorm",  # half of what the parts give is added
    "mixtral": "post_attention_layernorm",
    "falcon_h1": "pre_ff_layernorm",  # attention and a state space side by side, and then the MLP
}
SIDE_BY_SIDE = ("gpt_neox", "gptj", "cohere")


class Case:
    """A model, its plain logits, and what is given the stream between the parts."""

    def __init__(self, module, reader):
        self.model = mg.InterpretableModel(module)
        self.reader = reader
        self.plain = module(TOKENS)

    def given(self, layer):
        """The stream between the parts of a layer, as the model gives it on."""
        return getattr(self.model.layers[layer], self.reader).input

    def logits(self, edit, **options):
        with self.model.trace(TOKENS, **options):
            edit()
            out = self.model.output.save()
        return out


def _four_bit():
    module = configs.build("llama")
    nn.quantize(module, group_size=32, bits=4)
    module.set_dtype(mx.bfloat16)
    return module


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "four bit"])
def case(request) -> Case:
    if request.param == "four bit":
        return Case(_four_bit(), ARCHITECTURES["llama"])
    return Case(configs.build(request.param), ARCHITECTURES[request.param])


@pytest.fixture(scope="module")
def llama() -> Case:
    return Case(models.make_llama(), ARCHITECTURES["llama"])


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and bool(mx.array_equal(a, b))


def apart(a, b):
    return mx.abs(a.astype(mx.float32) - b.astype(mx.float32)).max().item()


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and apart(a, b) <= tolerance * mx.abs(b).max().item()


# -- what they are ---------------------------------------------------------------------------------


def test_the_stream_goes_from_layer_to_layer_by_way_of_the_middle(case):
    with case.model.trace(TOKENS):
        layers = case.model.layers
        post, pre = layers[0].resid_post.save(), layers[1].resid_pre.save()
        middle, given = layers[1].resid_mid.save(), case.given(1).save()
    assert same(post, pre)
    assert close(middle, given, 1e-6)
    assert not close(middle, pre, 1e-2)


@settings(max_examples=12)
@given(layer=st.integers(0, 1), position=st.integers(0, LENGTH - 1), name=st.sampled_from(
    ["resid_pre", "resid_mid", "resid_post"]))  # fmt: skip
@pytest.mark.thin(3)
def test_writing_back_what_is_read_changes_nothing_to_the_last_bit(case, layer, position, name):
    def back():
        at = case.model.layers[layer]
        setattr(at, name, getattr(at, name))
        handle = getattr(at, name)
        handle[:, position] = handle[:, position]
        setattr(at, name, mx.array(getattr(at, name)))

    def doubled():
        getattr(case.model.layers[layer], name)[:, position] *= 2

    assert same(case.logits(back), case.plain)
    edited = case.logits(doubled)
    assert same(edited[:, :position], case.plain[:, :position])
    assert apart(edited[:, position:], case.plain[:, position:]) > 1e-3


def test_what_is_written_is_what_the_rest_of_the_layer_is_given(case):
    with case.model.trace(TOKENS):
        layer = case.model.layers[1]
        value = mx.random.normal(layer.resid_mid.shape, layer.resid_mid.dtype, key=mx.random.key(1))
        layer.resid_mid = value
        read, given = layer.resid_mid.save(), case.given(1).save()
        post = layer.resid_post.save()
    near = 2e-2 if given.dtype == mx.bfloat16 else 1e-6
    assert abs(read.astype(mx.float32).mean().item()) < 0.2
    assert close(given, read, near)
    with case.model.trace(TOKENS):  # the skip connection too: the layer's input is forgotten
        layer = case.model.layers[1]
        layer.resid_pre *= 0.5
        layer.resid_mid = mx.random.normal(
            layer.resid_mid.shape, layer.resid_mid.dtype, key=mx.random.key(1)
        )
        other = layer.resid_post.save()
    assert close(other, post, near)


def test_an_edit_equals_the_forward_written_out_by_hand(llama):
    step = mx.random.normal((1, LENGTH, models.WIDTH), key=mx.random.key(3))
    for layer in range(models.LAYERS):
        for name in ("resid_pre", "resid_mid"):
            expected, values = by_hand(llama.model.module, IDS, {(name, layer): step})
            with llama.model.trace(TOKENS):
                stream = llama.model[f"layers.{layer}.{name}"]
                before = stream.output.save()
                stream.output += step
                score = (llama.model.output[0, -1, 7] - llama.model.output[0, -1, 11]).save()
            assert close(before, values[name, layer])
            assert abs(score.item() - expected.item()) < 1e-4


@pytest.mark.parametrize("case", ["granite", "four bit"], indirect=True)
def test_compiled_equals_eager(case):
    def edit():
        case.model.layers[1].resid_mid[:, 2:] *= 0.5
        case.model.layers[0].resid_post[:, -1] += 1.0

    eager = case.logits(edit, compile=False)
    near = 2e-2 if eager.dtype == mx.bfloat16 else 1e-5
    assert close(case.logits(edit, compile=True), eager, near)
    assert apart(eager, case.plain) > 1e-3


# -- every call that takes a name ------------------------------------------------------------------


def test_every_call_takes_the_names(llama):
    model, half = llama.model, iv.scale(0.5)

    def edit():
        model.layers[1].resid_mid *= 0.5
        model.layers[2].resid_pre[:, -1] *= 0.5

    expected = llama.logits(edit)
    by_name = {"layers.1.resid_mid": half, "model.model.layers.2.resid_pre": _last_halved}
    assert same(llama.logits(lambda: None, interventions=by_name), expected)
    graph = mg.edit(model.layers[1].resid_mid, half, expect=1)
    graph >>= mg.edit("layers.2.resid_pre", half, positions=-1)
    graph >>= mg.read("layers.*.resid_mid", name="m") >> mg.read("layers.1.resid_post", "post")
    found = model.run(graph, TOKENS)
    with model.trace(TOKENS) as trace:
        edit()
        kept = trace.cache("layers.*.resid_mid")
        post = model["layers.1.resid_post"].output.save()
    assert same(trace.output, expected)
    assert same(model.edit(graph)(TOKENS), expected)
    assert same(model.compile(graph)(TOKENS).saves["post"], model.run(graph, TOKENS)["post"])
    for k in range(models.LAYERS):
        assert same(found[f"m.model.layers.{k}.resid_mid"], kept[f"model.layers.{k}.resid_mid"])
        looked = trace.activations[f"layers.{k}.resid_mid"]
        assert close(looked, kept[f"model.layers.{k}.resid_mid"])
        assert same(looked, trace.get(f"layers.{k}.resid_mid"))
    assert same(found["post"], post)
    assert "write model.layers.1.self_attn.output" in str(trace.graph)
    assert "edit layers.2.resid_pre.output with scale(0.5), positions=-1" in str(graph)
    assert model.explain(graph, TOKENS)


def _last_halved(h):
    h[:, -1] *= 0.5
    return h


def test_activations_of_several_texts(llama):
    model, texts = llama.model, [IDS, IDS[:4]]
    names = ["layers.1.resid_pre", "layers.1.resid_mid", "layers.1.resid_post"]
    found = mg.get_activations(model, texts, names, positions=-1)
    batched = mg.batch_get_activations(model, texts, ["layers.1.resid_mid"], batch_size=1)
    for row, text in enumerate(texts):
        with model.trace(text):
            layer = model.layers[1]
            alone = [h[:, -1].save() for h in (layer.input, llama.given(1), layer.output)]
        for name, value in zip(names, alone, strict=True):
            assert close(found[name][row : row + 1], value)
        assert close(batched["layers.1.resid_mid"][row : row + 1], alone[1])


def test_a_sweep_equals_a_loop(llama):
    graphs = [mg.edit(f"layers.{k}.resid_mid", iv.scale(0.5), positions=3) for k in range(3)]
    swept = llama.model.sweep(TOKENS, graphs)
    for k, graph in enumerate(graphs):
        assert same(swept[k].output, llama.model.run(graph, TOKENS).output)
        assert apart(swept[k].output, llama.plain) > 1e-3


def test_graphs_that_are_kept_and_moved(llama, tmp_path):
    model, half = llama.model, iv.scale(0.5)
    deferred = mg.edit("layers.0.resid_mid", half)
    with model.trace(TOKENS) as trace:
        model.layers[0].resid_mid *= 0.5
    for number, graph in enumerate((deferred, trace.graph)):
        graph.save(tmp_path / f"{number}.mlxg")
        graph = mg.Graph.load(tmp_path / f"{number}.mlxg")
        expected = llama.logits(lambda: setattr(model.layers[0], "resid_mid", _half_of(model, 0)))
        assert same(model.run(graph, TOKENS).output, expected)
        moved = graph.retarget({"layers.0": "layers.2"})
        expected = llama.logits(lambda: setattr(model.layers[2], "resid_mid", _half_of(model, 2)))
        assert same(model.run(moved, TOKENS).output, expected)
    # another model has other parts
    other = Case(configs.build("gpt2"), "ln_2")
    assert apart(other.model.run(deferred, TOKENS).output, other.plain) > 1e-3
    with model.trace(TOKENS) as trace:
        model.layers[1].mlp.output *= 0.5
    aimed = trace.graph.retarget({"layers.1.mlp": "layers.2.resid_mid"})
    assert same(model.run(aimed, TOKENS).output, expected)
    assert same(model.sweep(TOKENS, [aimed])[0].output, expected)
    assert same(model.edit(aimed)(TOKENS), expected)


def _half_of(model, layer):
    return model.layers[layer].resid_mid * 0.5


def test_several_prompts(llama):
    model, other = llama.model, [9, 1, 30, 2]
    with model.trace() as trace:
        with trace.invoke(IDS):
            clean = model.layers[1].resid_mid
        with trace.invoke(other):
            model.layers[1].resid_mid[:, -1] = clean[:, -1]
            mixed = model.output[:, -1].save()
    with model.trace(IDS):
        clean = model.layers[1].resid_mid.save()
    with model.trace(other):
        model.layers[1].resid_mid[:, -1] = clean[:, -1]
        expected = model.output[:, -1].save()
    assert close(mixed, expected)


def test_every_step_of_a_generation():
    model = mg.tiny()
    plain = model.generate("The capital of France is", max_tokens=5)
    with model.generate("The capital of France is", max_tokens=5) as trace:
        model.layers[1].resid_mid += 0
    assert trace.tokens == plain.tokens
    with model.generate("The capital of France is", max_tokens=5) as trace:
        with trace.step[1:]:
            model.layers[1].resid_mid[:, -1] += 20.0
        middle = model.layers[1].resid_mid.save()
        given = model.layers[1].post_attention_layernorm.input.save()
    assert trace.tokens[0] == plain.tokens[0]
    assert trace.tokens != plain.tokens
    assert [h.shape[1] for h in middle] == [6, 1, 1, 1, 1]
    assert all(close(a, b) for a, b in zip(middle, given, strict=True))
    edited = model.edit(mg.edit("layers.1.resid_mid", iv.scale(0.5)))
    ids = mx.array([model.encode("The capital of France is")])
    assert same(edited.as_module()(ids), edited(ids))


@pytest.mark.parametrize("case", ["llama", "granite", "falcon_h1"], indirect=True)
def test_gradients_at_it_and_through_what_is_written(case):
    def loss_with(step):
        with case.model.trace(TOKENS):
            case.model.layers[1].resid_mid += step
            loss = case.model.output[0, -1, 3].astype(mx.float32).save()
        return loss

    with case.model.trace(TOKENS) as trace:
        middle = case.model.layers[1].resid_mid
        whole = case.model.output.save()
        slope = trace.grad(case.model.output[0, -1, 3].astype(mx.float32), middle).save()
    assert same(whole, case.plain)
    through = mx.grad(loss_with)(mx.zeros(middle.shape, middle.dtype))
    assert close(through, slope, 2e-2 if slope.dtype == mx.bfloat16 else 1e-5)
    if slope.dtype == mx.float32:
        step = 1e-2 * slope / mx.linalg.norm(slope)
        rise = (loss_with(step) - loss_with(-step)).item() / 2
        assert abs(rise - mx.sum(slope * step).item()) < 2e-2 * abs(rise)


# -- program order ---------------------------------------------------------------------------------


def test_what_is_written_before_it_in_the_forward_is_in_it_wherever_it_is_read(llama):
    with llama.model.trace(TOKENS):
        layer = llama.model.layers[1]
        above = layer.resid_mid.save()
        layer.attn.output = 0
        below, pre = layer.resid_mid.save(), layer.resid_pre.save()
        layer.resid_mid *= 2
        after, attention = layer.resid_mid.save(), layer.attn.output.save()
        assert float(layer.resid_mid[0, 0, 0]) == 2 * float(layer.resid_pre[0, 0, 0])
    assert same(above, pre)
    assert same(below, pre)
    assert same(after, 2 * pre)
    assert not attention.any().item()


def test_a_layer_whose_attention_is_skipped(llama):
    with llama.model.trace(TOKENS):
        layer = llama.model.layers[1]
        layer.attn.skip(mx.zeros((1, LENGTH, models.WIDTH)))
        middle, pre = layer.resid_mid.save(), layer.resid_pre.save()
        layer.resid_mid[:, -1] = 2.0
        given = llama.given(1).save()
    assert same(middle, pre)
    assert same(given[:, :-1], pre[:, :-1])
    assert close(given[:, -1], mx.full((1, models.WIDTH), 2.0))


def test_what_cannot_be(llama):
    layer = llama.model.layers[1]
    with pytest.raises(OrderError, match="resid_mid"), llama.model.trace(TOKENS):
        layer.attn.output = layer.resid_mid
    with pytest.raises(OrderError, match="resid_mid"), llama.model.trace(TOKENS):
        layer.resid_mid = layer.mlp.output
    with pytest.raises(StaleHandleError, match="resid_mid"), llama.model.trace(TOKENS):
        handle = layer.resid_mid
        layer.resid_mid = handle * 2
        handle += 1
    with pytest.raises(NeverCalledError, match="skipped"), llama.model.trace(TOKENS):
        layer.skip(layer.resid_pre)
        _ = layer.resid_mid
    with pytest.raises(OutsideTraceError, match="resid_mid"):
        layer.resid_mid.save()
    with pytest.raises(UnknownSiteError, match=r"write model.layers\[k\].resid_mid"):
        _ = llama.model["layers.1.mlp.resid_mid"]
    with pytest.raises(UnknownSiteError), llama.model.trace(TOKENS):
        _ = layer.mlp.resid_post


# -- models without one ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_parts_side_by_side_have_no_middle(name):
    case = Case(configs.build(name), "")
    with pytest.raises(UnknownSiteError, match="(?s)side by side.*Write 'resid_pre'") as caught:
        with case.model.trace(TOKENS):
            _ = case.model.layers[1].resid_mid
    assert caught.traceback[-1].path.name == "test_stream_names.py"
    with pytest.raises(UnknownSiteError, match="side by side"), case.model.trace(TOKENS):
        case.model.layers[1].resid_mid = 0
    with pytest.raises(UnknownSiteError, match="side by side"):
        case.model.run(mg.edit("layers.*.resid_mid", iv.zero_out), TOKENS)
    with case.model.trace(TOKENS):
        post, pre = case.model.layers[0].resid_post.save(), case.model.layers[1].resid_pre.save()
        case.model.layers[1].resid_post *= 0
        out = case.model.output.save()
    assert same(post, pre)
    assert apart(out, case.plain) > 1e-3


class Layer(nn.Module):
    """A layer as it is written, with parts that are linear."""

    def __init__(self, width, forward):
        super().__init__()
        self.attn, self.mlp = nn.Linear(width, width), nn.Linear(width, width)
        self.norm, self.last = nn.RMSNorm(width), nn.RMSNorm(width)
        self.forward = forward

    def __call__(self, x):
        return self.forward(self, x)


class Stack(nn.Module):
    """Layers one after the other on float inputs."""

    def __init__(self, forward, width=16):
        super().__init__()
        self.layers = [Layer(width, forward) for _ in range(2)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


def in_place(layer, x):
    x += layer.attn(x)
    x += mx.tanh(layer.mlp(layer.norm(x)))
    return x


def with_a_function_for_a_norm(layer, x):
    h = x + layer.attn(mx.fast.rms_norm(x, None, 1e-5))
    return h + layer.mlp(mx.fast.rms_norm(h, None, 1e-5)), h


def scaled(layer, x):
    h = x + 0.3 * layer.attn(layer.norm(x))
    return (h + layer.mlp(layer.last(h)) / 7) * 1.5


def norm_after_the_sum(layer, x):
    h = layer.norm(x + layer.attn(x))
    return layer.last(h + layer.mlp(h))


def one_part(layer, x):
    return x + layer.attn(layer.norm(x))


def input_once_more(layer, x):
    h = x + layer.attn(layer.norm(x))
    return h + layer.mlp(layer.last(h)) * mx.sigmoid(x)


def gated_by_the_input(layer, x):
    h = x + layer.attn(layer.norm(x))
    return h + layer.mlp(layer.last(h) + 0.1 * mx.tanh(x))


FLOATS = mx.random.normal((2, 5, 16), key=mx.random.key(8))


@pytest.mark.parametrize("forward", [in_place, with_a_function_for_a_norm, scaled])
def test_it_is_found_by_numbers(forward):
    model = mg.InterpretableModel(Stack(forward))
    plain = model.module(mx.array(FLOATS))
    with model.trace(FLOATS):
        for layer in model.layers:
            layer.resid_mid[...] = layer.resid_mid
        middle, pre = model.layers[1].resid_mid.save(), model.layers[1].resid_pre.save()
        added = model.layers[1].attn.output.save()
        out = model.output.save()
    assert same(out, plain)
    assert close(middle, pre + (0.3 if forward is scaled else 1) * added, 1e-6)
    with model.trace(FLOATS):
        for layer in model.layers:
            layer.resid_mid = 0
        zeroed = model.output.save()
    with model.trace(FLOATS * 3):
        for layer in model.layers:
            layer.resid_mid = 0
        again = model.output.save()
    assert close(zeroed, again, 1e-4)  # nothing goes past it


@pytest.mark.parametrize(
    "forward", [norm_after_the_sum, one_part, input_once_more, gated_by_the_input]
)
def test_it_is_refused_by_numbers(forward):
    model = mg.InterpretableModel(Stack(forward))
    with pytest.raises(UnknownSiteError, match="It is the stream between attention and the MLP"):
        with model.trace(FLOATS):
            _ = model.layers[1].resid_mid


def test_a_model_that_changes_is_asked_anew():
    module = Stack(scaled)
    model = mg.InterpretableModel(module)

    def middle():
        with model.trace(FLOATS):
            value, pre = model.layers[1].resid_mid.save(), model.layers[1].resid_pre.save()
            added = model.layers[1].attn.output.save()
        return value, pre, added

    value, pre, added = middle()
    assert close(value, pre + 0.3 * added, 1e-6)
    module.layers[1].attn.weight = mx.zeros((16, 16))
    module.layers[1].attn.bias = mx.zeros(16)
    value, pre, _ = middle()
    assert same(value, pre)
    module.layers[1].attn.bias = mx.ones(16)
    module.layers[1].forward = in_place
    value, pre, added = middle()
    assert close(value, pre + added, 1e-6)
    module.layers[1] = Layer(16, norm_after_the_sum)
    with pytest.raises(UnknownSiteError, match="resid_mid"):
        middle()


class Named(Layer):
    """A layer with modules that are really called so."""

    def __init__(self, width, forward):
        super().__init__(width, forward)
        self.resid_mid, self.resid_post = nn.Identity(), nn.Identity()

    def __call__(self, x):
        return self.resid_post(self.resid_mid(x * 2) + self.attn(x))


def test_a_module_that_is_called_so_comes_first():
    module = Stack(scaled)
    module.layers = [Named(16, scaled), Named(16, scaled)]
    model = mg.InterpretableModel(module)
    with model.trace(FLOATS):
        named, doubled = model.layers[0].resid_mid.output.save(), model.layers[0].input.save()
        post = model["layers.0.resid_post"].output.save()
        out = model.layers[0].output.save()
    assert same(named, 2 * doubled)
    assert same(post, out)
    assert model.sites("layers.*.resid_mid") == ["layers.0.resid_mid", "layers.1.resid_mid"]


# Those of which no layer has one: parts side by side, one part, or a stream that is no sum.
WITHOUT = {
    "cohere", "cohere2", "dbrx", "deepseek_v41", "gemma3n", "gpt_neox", "gptj", "mamba", "mamba2",
    "nemotron_h", "phi", "phixtral", "plamo", "talkie", "iquestloopcoder",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", configs.installed(configs.KNOWN.split()))
def test_every_architecture_is_known_to_have_one_or_not(name):
    case = Case(configs.build(name), "")
    found = []
    with case.model.trace(TOKENS):
        for layer in case.model.layers:
            try:
                middle = layer.resid_mid
            except UnknownSiteError as error:
                assert "It is the stream between" in str(error)
                continue
            middle[...] = middle
            found.append(layer.path)
        out = case.model.output.save()
    assert same(out, case.plain)
    assert bool(found) == (name not in WITHOUT)


# -- what writes to it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("granite", "input + 0.5 self_attn + 0.5 mlp; resid_mid = input + 0.5 self_attn"),
        ("falcon_h1", "input + mamba + self_attn + feed_forward; resid_mid = input + mamba"),
        ("gemma2", "input + post_attention_layernorm + post_feedforward_layernorm; resid_mid"),
        ("gptj", "input + attn + mlp; no resid_mid: no part"),
        ("mamba", "input + mixer; no resid_mid: this layer adds what one part gives, mixer"),
        ("dbrx", "no sum of what its modules give; no resid_mid: what this layer gives"),
    ],
)
def test_what_writes_to_the_stream(name, said):
    model = mg.InterpretableModel(configs.build(name))
    found = model.residual_stream()
    assert len(found) == len(model.layers)
    assert f"{model.layers[1].path}: {said}" in str(found[1])
    assert str(found).splitlines()[1] == str(found[1])
    with model.trace(TOKENS):
        values = {name: model[name].output.save() for name, _ in found[1].writers}
        pre, post = model.layers[1].resid_pre.save(), model.layers[1].resid_post.save()
    if found[1].writers:
        total = sum(factor * values[name] for name, factor in found[1].writers) + pre
        assert close(total, post)
    with pytest.raises(IndexError):
        found[len(found)]


def test_what_writes_to_the_stream_of_a_model_on_floats():
    found = mg.InterpretableModel(Stack(scaled)).residual_stream(FLOATS)
    assert [(name, round(factor, 4)) for name, factor in found[1].writers] == [
        ("layers.1.attn", 0.45),
        ("layers.1.mlp", 0.2143),
    ]
    assert found[1].middle == (("layers.1.attn", pytest.approx(0.3)),)
    assert found[1].carries == 1.5
    assert str(found[1]).startswith(
        "layers.1: 1.5 input + 0.45 attn + 0.2143 mlp; resid_mid = input"
    )
    nothing = mg.InterpretableModel(Stack(norm_after_the_sum)).residual_stream(FLOATS)
    assert nothing[0].writers == nothing[0].middle == ()
    assert "a norm comes after the sum" in nothing[0].reason


class WithMore(nn.Module):
    """Token ids alone are not all that it takes."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = Stack(scaled).layers

    def __call__(self, tokens, shift):
        x = self.embed(tokens) + shift
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_model_that_takes_more_than_a_text():
    model = mg.InterpretableModel(WithMore())
    with model.trace(TOKENS, shift=mx.ones(16)):
        layer = model.layers[1]
        middle, pre, added = layer.resid_mid.save(), layer.input.save(), layer.attn.output.save()
    assert close(middle, pre + 0.3 * added, 1e-6)
