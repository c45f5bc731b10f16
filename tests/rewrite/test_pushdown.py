"""Slice push-down: the head runs on the positions that are wanted, and the numbers are the same."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import llama

import mlxgraph as mg
from tests import models

TOKENS = mx.array([[1, 7, 3, 9, 4, 2], [5, 11, 0, 8, 6, 13]])
LENGTH = 6
PUSHED = "after pushdown"
NEAR = 1e-5  # a matrix product over fewer rows may round otherwise


def quantised(module: nn.Module) -> nn.Module:
    nn.quantize(
        module,
        group_size=32,
        bits=4,
        class_predicate=lambda _, m: hasattr(m, "to_quantized") and m.weight.shape[-1] % 32 == 0,
    )
    head = "lm_head" if "lm_head" in module else "model.embed_tokens"
    assert type(dict(module.named_modules())[head]) in (nn.QuantizedLinear, nn.QuantizedEmbedding)
    return module


HEADS = {
    "tied": lambda: models.make_llama(True),
    "untied": lambda: models.make_llama(False),
    "quantised tied": lambda: quantised(models.make_llama(True)),
    "quantised untied": lambda: quantised(models.make_llama(False)),
}


@pytest.fixture(scope="module", params=HEADS)
def model(request):
    return mg.InterpretableModel(HEADS[request.param]())


@pytest.fixture
def seen(monkeypatch):
    """The shapes that heads of this vocabulary are given, tied ones included."""
    shapes = []

    def watch(kind, name):
        real = getattr(kind, name)

        def call(self, x):
            y = real(self, x)
            if y.shape[-1] == models.VOCABULARY:
                shapes.append(x.shape)
            return y

        monkeypatch.setattr(kind, name, call)

    for kind in (nn.Embedding, nn.QuantizedEmbedding):
        watch(kind, "as_linear")
    for kind in (nn.Linear, nn.QuantizedLinear):
        watch(kind, "__call__")
    return shapes


WANTED = {
    "last": lambda out: [out[:, -1]],
    "last, kept as an axis": lambda out: [out[:, -1:]],
    "third": lambda out: [out[:, 2]],
    "first": lambda out: [out[:, 0]],
    "one row": lambda out: [out[0, -1]],
    "dots": lambda out: [out[..., -1, :]],
    "a range": lambda out: [out[:, 1:3]],
    "every second": lambda out: [out[:, 1:5:2]],
    "one token": lambda out: [out[:, -1, 7]],
    "some tokens": lambda out: [out[:, -1, mx.array([3, 4])]],
    "two saves": lambda out: [out[:, -1], out[:, -2]],
    "two saves, two rows": lambda out: [out[0, 3], out[1, 4:5]],
    "computed": lambda out: [mx.softmax(out[:, -1], axis=-1).max(axis=-1)],
    "difference": lambda out: [out[:, -1, 3] - out[:, -1, 4]],
}


def graph_of(model, wanted, edit=None):
    """The graph of a block with an edit on the way, and what it saves of the output."""
    with model.trace(TOKENS) as t:
        if edit is None:
            model.layers[1].output[:, -1] *= 1.5
        else:
            edit(model)
        for k, value in enumerate(wanted(model.output)):
            value.save(f"s{k}")
    return t.graph


def is_pushed(model, graph, **options) -> bool:
    return PUSHED in graph.explain(model, TOKENS, **options)


def agree(model, graph, tolerance=NEAR, inputs=TOKENS, **options):
    plain = model.run(graph, inputs, optimize=False, compile=False)
    done = model.run(graph, inputs, **options)
    assert plain.saves.keys() == done.saves.keys()
    for name in plain.saves:
        assert models.same(plain[name], done[name], tolerance), name


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.thin(6)
def test_a_position_of_the_output_is_the_same_pushed_down(model, wanted):
    graph = graph_of(model, WANTED[wanted])
    assert is_pushed(model, graph)
    agree(model, graph, compile=False)
    agree(model, graph, compile=True, optimize=("pushdown",))


def test_the_head_runs_on_the_wanted_position_alone(model, seen):
    graph = graph_of(model, WANTED["last"])
    model.run(graph, TOKENS, optimize=False)
    seen.clear()
    model.run(graph, TOKENS, optimize=False, compile=False)
    assert {shape[1] for shape in seen} == {LENGTH}
    seen.clear()
    model.run(graph, TOKENS, optimize=True, compile=False)
    assert seen and {shape[1] for shape in seen} == {1}
    seen.clear()
    two = graph_of(model, WANTED["two saves"])
    seen.clear()
    model.run(two, TOKENS, compile=False)
    assert {shape[1] for shape in seen} == {2}


def test_the_final_norm_runs_on_the_wanted_position_alone(model, monkeypatch):
    shapes = []
    real = nn.RMSNorm.__call__
    monkeypatch.setattr(
        nn.RMSNorm, "__call__", lambda self, x: shapes.append(x.shape) or real(self, x)
    )
    graph = graph_of(model, WANTED["last"])
    model.run(graph, TOKENS, compile=False, optimize="pushdown")  # what is seen to once
    shapes.clear()
    model.run(graph, TOKENS, compile=False, optimize="pushdown")
    assert [shape[1] for shape in shapes] == [LENGTH] * (2 * models.LAYERS) + [1]


def test_the_option_turns_it_off(model):
    graph = graph_of(model, WANTED["last"])
    assert is_pushed(model, graph) and is_pushed(model, graph, optimize=("pushdown",))
    assert not is_pushed(model, graph, optimize=False)
    assert not is_pushed(model, graph, optimize=("updates", "reads"))


def test_a_trace_and_a_compiled_pass_take_the_option(model, seen):
    for optimize, length in ((False, LENGTH), (("pushdown",), 1), (True, 1)):
        seen.clear()
        with model.trace(TOKENS, compile=False, optimize=optimize) as t:
            model.output[:, -1].save()
        assert seen[-1][1] == length
        seen.clear()
        model.compile(t.graph, optimize=optimize)(TOKENS)
        assert seen[-1][1] == length

        def last(m, scale):
            m.layers[0].output *= scale
            return m.output[:, -1]

        seen.clear()
        model.pass_(last, optimize=optimize)(TOKENS, 2.0)
        assert seen[-1][1] == length


def test_other_lengths_take_the_same_graph(model):
    graph = graph_of(model, WANTED["last"])
    for length in (1, 2, 5, 9):
        tokens = mx.arange(2 * length).reshape(2, length) % models.VOCABULARY
        agree(model, graph, inputs=tokens)


def test_an_edit_of_the_norms_input_is_kept(model):
    def edit(m):
        m.model.norm.input = m.model.norm.input * 2 - m.layers[0].output

    graph = graph_of(model, WANTED["last"], edit)
    assert is_pushed(model, graph)
    agree(model, graph)


def test_the_stream_before_the_norm_can_be_saved_beside(model):
    def edit(m):
        m.model.norm.input.save("stream")
        m.layers[2].output.save("layer")

    graph = graph_of(model, WANTED["last"], edit)
    assert is_pushed(model, graph)
    assert model.run(graph, TOKENS)["stream"].shape[1] == LENGTH
    agree(model, graph)


def test_texts_of_several_lengths_equal_the_run_without():
    tiny = mg.tiny()
    texts = ["The capital of France is", "The capital of Japan", "The"]
    with tiny.trace(texts, optimize=False) as t:
        plain = tiny.output[:, -1].save()
    with tiny.trace(texts, compile=False) as t:
        done = tiny.output[:, -1].save()
    assert PUSHED in t.graph.explain(tiny, texts)
    assert models.same(plain, done, 1e-4)
    for text, row in zip(texts, done, strict=True):
        with tiny.trace(text):
            alone = tiny.output[0, -1].save()
        assert models.same(alone, row, 1e-4)


# -- when in doubt, nothing ------------------------------------------------------------------------


def late_read(m):
    m.model.norm.output.save("norm")


def late_write(m):
    m.model.norm.output = m.model.norm.output * 2


def inner_read(m):
    m.model.output.save("inner")


LEFT_ALONE = {
    "the whole output": (lambda out: [out], None),
    "the whole output beside a position": (lambda out: [out[:, -1], out], None),
    "every position": (lambda out: [out[:, :]], None),
    "first and last": (lambda out: [out[:, 0], out[:, -1]], None),
    "positions from an array": (lambda out: [out[:, mx.array([0, 2])]], None),
    "a reversed range": (lambda out: [out[:, ::-1]], None),
    "a new axis": (lambda out: [out[None, :, -1]], None),
    "rows alone": (lambda out: [out[0]], None),
    "a reduction first": (lambda out: [mx.softmax(out, axis=1)[:, -1]], None),
    "a read after the norm": (lambda out: [out[:, -1]], late_read),
    "a write after the norm": (lambda out: [out[:, -1]], late_write),
    "a read of the inner model": (lambda out: [out[:, -1]], inner_read),
}


@pytest.mark.parametrize("what", LEFT_ALONE)
@pytest.mark.thin(6)
def test_when_in_doubt_nothing_is_pushed(model, what):
    wanted, edit = LEFT_ALONE[what]
    graph = graph_of(model, wanted, edit)
    assert not is_pushed(model, graph)
    agree(model, graph, 0.0 if what != "a reduction first" else NEAR, compile=False)


def test_gradients_are_left_alone(model):
    with model.trace(TOKENS) as t:
        h = model.layers[1].output
        t.grad(model.output[:, -1].sum(), h).save()
    assert not is_pushed(model, t.graph)


def test_a_skipped_model_is_left_alone(model):
    with model.trace(TOKENS) as t:
        model.model.skip(mx.ones((2, LENGTH, models.WIDTH)))
        model.output[:, -1].save("s0")
    assert not is_pushed(model, t.graph)
    agree(model, t.graph)


def test_a_skipped_layer_is_no_hindrance(model):
    def edit(m):
        m.layers[1].skip(m.layers[0].output)

    graph = graph_of(model, WANTED["last"], edit)
    assert is_pushed(model, graph)
    agree(model, graph)


class Own(llama.Model):
    """A model of the user's own: nobody knows what it does after the norm."""


class Biased(llama.Model):
    """Adds something of its own for each position, so that it cannot do with fewer."""

    def __call__(self, inputs, cache=None):
        return super().__call__(inputs, cache) + mx.arange(inputs.shape[1])[None, :, None]


class Ending(llama.Model):
    """Calls a module that nobody knows between the norm and the output."""

    def __init__(self, args):
        super().__init__(args)
        self.after = models.Scale(args.vocab_size, 2.0)

    def __call__(self, inputs, cache=None):
        return self.after(super().__call__(inputs, cache))


class Softcapped(llama.Model):
    """Ends as Gemma does: what follows the head treats each number alone."""

    def __call__(self, inputs, cache=None):
        return mx.tanh(super().__call__(inputs, cache) / 30) * 30


def remade(kind, trusted):
    """A random model of another class, with or without mlx-lm's name on it."""
    module = models.make_llama(False)
    args = module.args
    other = kind(args)
    other.update(module.parameters())
    kind.__module__ = "mlx_lm.models.made_up" if trusted else __name__
    return mg.InterpretableModel(other)


@pytest.mark.parametrize(
    ("kind", "trusted", "pushed"),
    [
        (Own, False, False),
        (Own, True, True),
        (Biased, True, False),
        (Ending, True, False),
        (Softcapped, True, True),
    ],
)
def test_only_what_is_known_to_treat_positions_alone_is_cut(kind, trusted, pushed):
    model = remade(kind, trusted)
    with model.trace(TOKENS) as t:
        model.layers[0].output *= 2
        model.output[:, -1].save("s0")
    assert is_pushed(model, t.graph) == pushed
    agree(model, t.graph)


def test_a_model_without_a_norm_is_left_alone(chain, x):
    with chain.trace(x) as t:
        kept = chain.output[:, -1].save()
    assert PUSHED not in t.graph.explain(chain, x)
    with chain.trace(x, optimize=False):
        plain = chain.output[:, -1].save()
    assert models.same(kept, plain)


def test_modules_exchanged_later_are_seen():
    model = mg.InterpretableModel(models.make_llama(False))
    graph = graph_of(model, WANTED["last"])
    agree(model, graph)
    model.module.lm_head = models.Counting(model.module.lm_head)
    assert not is_pushed(model, graph)
    agree(model, graph)


def test_cuts_hold_under_transformations(model):
    graph = graph_of(model, lambda out: [out[:, -1].square().mean()], scaled)
    assert is_pushed(model, graph, alpha=1.0)

    def loss(alpha, optimize):
        return model.run(graph, TOKENS, alpha=alpha, optimize=optimize)["s0"]

    slopes = [mx.grad(loss)(mx.array(1.5), optimize) for optimize in (False, True)]
    assert models.same(*slopes, 1e-4) and abs(slopes[0].item()) > 1e-4
    if hasattr(model.module.model.embed_tokens, "scales"):
        return  # MLX has no vmap of quantised products
    many = mx.vmap(lambda alpha: loss(alpha, True))(mx.array([0.5, 1.5]))
    assert models.same(many[1], loss(mx.array(1.5), False), 1e-4)


def scaled(m):
    m.layers[1].mlp.output *= mg.param("alpha")


def test_prompts_of_one_trace_are_pushed_down_together():
    """Each prompt's rows are a slice of the batch, and its positions a slice of the padded ones."""
    tiny = mg.tiny()
    texts = ["The capital of France is", "The capital of Japan", "The"]
    found = {}
    for optimize in (False, True):
        with tiny.trace(compile=False, optimize=optimize) as t:
            for text in texts:
                with t.invoke(text):
                    tiny.layers[1].output *= 1.5
                    last = tiny.output[:, -1].save()
                    found.setdefault(optimize, []).append(last)
    assert PUSHED in t.graph.explain(tiny, texts)
    for plain, done in zip(found[False], found[True], strict=True):
        assert models.same(plain, done, 1e-4)


@pytest.mark.parametrize(
    "both",
    [
        lambda out: out[0:1][:, -1],
        lambda out: out[1:2, 1:6][:, -1],
        lambda out: out[:, 2:5][0, -2:],
        lambda out: out[:, ::2][:, 1:],
        lambda out: out[:, 1:][:, 1:][:, -1],
        lambda out: out[:, 3:][:, 0, 4:9],
        lambda out: out[:, 3:][..., [2, 4]][:, 1],
    ],
)
@pytest.mark.thin(4)
def test_an_index_of_a_slice_is_pushed_down_as_one(model, both):
    graph = graph_of(model, lambda out: [both(out)])
    assert is_pushed(model, graph)
    agree(model, graph)


def test_a_slice_that_is_also_kept_whole_is_not_cut(model):
    graph = graph_of(model, lambda out: [out[0:1], out[0:1][:, -1]])
    assert not is_pushed(model, graph)
    agree(model, graph, 0.0, compile=False)
