"""The last layer runs its queries at the wanted positions alone, and the numbers are the same."""

from __future__ import annotations

from io import StringIO

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import cache as caches
from mlx_lm.models import llama

import mlxgraph as mg
from mlxgraph.run import last_layer, last_layer_check
from mlxgraph.run.call import describe_call
from mlxgraph.run.runner import Runner
from mlxgraph.run.standin import StandIn
from tests import models
from tests.architectures import configs, parts

TOKENS = mx.array([[1, 7, 3, 9, 4, 2, 8, 5], [5, 11, 0, 8, 6, 13, 1, 2]])
LENGTH = 8
LAST = models.LAYERS - 1
FEW = "its keys and values at"
NEAR = 1e-5  # of values of order one in float32; on some BLAS it is 0


def quantised(module: nn.Module) -> nn.Module:
    nn.quantize(
        module,
        group_size=32,
        bits=4,
        class_predicate=lambda _, m: hasattr(m, "to_quantized") and m.weight.shape[-1] % 32 == 0,
    )
    return module


def in_dtype(dtype: mx.Dtype) -> nn.Module:
    module = models.make_llama(False)
    module.set_dtype(dtype)
    return module


MODELS = {
    "tied": (lambda: models.make_llama(True), NEAR),
    "untied": (lambda: models.make_llama(False), NEAR),
    "4-bit": (lambda: quantised(models.make_llama(False)), NEAR),
    "bfloat16": (lambda: in_dtype(mx.bfloat16), 5e-2),
    "float16": (lambda: in_dtype(mx.float16), 1e-2),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    make, tolerance = MODELS[request.param]
    return mg.InterpretableModel(make()), tolerance


@pytest.fixture(scope="module")
def model():
    return mg.InterpretableModel(models.make_llama(False))


def graph_of(model, wanted=lambda out: [out[:, -1]], edit=None, tokens=TOKENS):
    """The graph of a block with an edit on the way, and what it saves of the output."""
    with model.trace(tokens) as t:
        model.layers[0].output[:, -1] *= 1.5
        if edit is not None:
            edit(model)
        for k, value in enumerate(wanted(model.output)):
            value.save(f"s{k}")
    return t.graph


def at_few(model, graph, tokens=TOKENS, **options) -> bool:
    return FEW in graph.explain(model, tokens, **options)


def agree(model, graph, tolerance=NEAR, tokens=TOKENS, **options):
    plain = model.run(graph, tokens, optimize=False, compile=False)
    done = model.run(graph, tokens, **options)
    assert plain.saves.keys() == done.saves.keys()
    for name in plain.saves:
        a, b = plain[name].astype(mx.float32), done[name].astype(mx.float32)
        assert a.shape == b.shape and plain[name].dtype == done[name].dtype
        assert mx.abs(a - b).max().item() <= tolerance * mx.abs(a).max().item(), name


WANTED = {
    "last": lambda out: [out[:, -1]],
    "third": lambda out: [out[:, 2]],
    "a range": lambda out: [out[:, 2:5]],
    "two positions": lambda out: [out[:, -1], out[:, -3]],
    "one row": lambda out: [out[1, -1]],
    "first two": lambda out: [out[:, :2]],
    "half": lambda out: [out[:, 4:]],
}


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.thin(6)
def test_positions_of_the_output_are_the_same(case, wanted):
    model, tolerance = case
    graph = graph_of(model, WANTED[wanted])
    assert at_few(model, graph)
    for compile in (False, True):
        agree(model, graph, tolerance, compile=compile)
        agree(model, graph, tolerance, compile=compile, optimize="last_layer")


def test_the_edit_before_it_matters(model):
    """The control: what these tests compare does change with what is edited."""
    graph = graph_of(model)
    plain = model(TOKENS)[:, -1]
    assert not models.same(model.run(graph, TOKENS)["s0"], plain, 1e-2)


def test_each_matrix_is_used_once(model):
    """What the first pass makes beside keys and values is no part of what is computed."""
    graph = graph_of(model)
    counts = {}
    for optimize in ("pushdown", "last_layer"):
        value = model.run(graph, TOKENS, optimize=optimize, compile=False)["s0"]
        drawn = _drawn(value)
        counts[optimize] = drawn.count("Matmul") + drawn.count("AddMM")
    assert counts["pushdown"] == counts["last_layer"] > 7 * models.LAYERS


def _drawn(value: mx.array) -> str:
    text = StringIO()
    mx.export_to_dot(text, value)
    return text.getvalue()


def test_the_queries_are_those_of_the_wanted_positions(model, monkeypatch):
    shapes = []
    real = mx.fast.scaled_dot_product_attention

    def watched(queries, keys, values, **options):
        shapes.append((queries.shape[2], keys.shape[2]))
        return real(queries, keys, values, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", watched)
    whole = (LENGTH, LENGTH)
    for wanted, last in (("last", (1, LENGTH)), ("third", (1, 3)), ("a range", (3, 5))):
        graph = graph_of(model, WANTED[wanted])
        shapes.clear()
        model.run(graph, TOKENS, compile=False)
        assert shapes[:LAST] == [whole] * LAST and shapes[-1] == last


def test_it_is_told_what_runs_where(model):
    told = graph_of(model).explain(model, TOKENS)
    assert f"run model.layers.{LAST} at 1 of 8 positions, its keys and values at 8" in told
    assert f"at 1 of 8 positions, {FEW} 3" in graph_of(model, WANTED["third"]).explain(
        model, TOKENS
    )


def test_the_option_turns_it_off(model):
    graph = graph_of(model)
    assert at_few(model, graph) and at_few(model, graph, optimize=("last_layer",))
    assert not at_few(model, graph, optimize=False)
    assert not at_few(model, graph, optimize=("pushdown", "reads"))


@pytest.mark.parametrize("length", [2, 3, 5, 17, 33])
def test_other_lengths_and_rows_take_the_same_graph(model, length):
    graph = graph_of(model)
    for rows in (1, 3):
        tokens = mx.arange(rows * length).reshape(rows, length) % models.VOCABULARY
        assert at_few(model, graph, tokens)
        agree(model, graph, tokens=tokens, compile=False)


def test_texts_of_one_length_and_of_several():
    tiny = mg.tiny()
    one, several = ["The capital of France is"] * 2, ["The capital of France is", "The"]
    for texts, few in ((one, True), (several, False)):
        with tiny.trace(texts, compile=False) as t:
            tiny.output[:, -1].save("s0")
        assert at_few(tiny, t.graph, texts) == few
        plain = tiny.run(t.graph, texts, optimize=False)["s0"]
        assert models.same(t.get("s0"), plain, 1e-4)


def test_a_site_inside_an_earlier_layer(model):
    def edit(m):
        m.layers[0].self_attn.pattern[:, 1] = 0
        m.layers[LAST - 1].mlp.ops["swiglu"].output.save("swiglu")

    graph = graph_of(model, edit=edit)
    assert at_few(model, graph)
    agree(model, graph, compile=False)
    agree(model, graph, compile=True)


def test_the_last_layers_input_may_be_edited(model):
    def edit(m):
        m.layers[LAST].input[:, 3] *= 2.0
        m.layers[LAST].input.save("entering")

    graph = graph_of(model, edit=edit)
    assert at_few(model, graph)
    agree(model, graph)


def test_another_mask_from_an_edit_is_kept(model):
    """The block is then called in another way than it was seen to be."""
    mask = mx.tril(mx.ones((LENGTH, LENGTH), mx.bool_)) & (mx.arange(LENGTH) != 2)

    def edit(m):
        (stream, _), kwargs = m.layers[LAST].inputs
        m.layers[LAST].inputs = ((stream, mask), kwargs)

    graph = graph_of(model, edit=edit)
    agree(model, graph, compile=False)
    unmasked = model.run(graph_of(model), TOKENS)["s0"]
    assert not models.same(model.run(graph, TOKENS)["s0"], unmasked, 1e-3)


def test_the_last_layer_called_by_hand_is_whole(model):
    def edit(m):
        m.layers[LAST](m.layers[0].output, "causal").save("by hand")

    graph = graph_of(model, edit=edit)
    assert at_few(model, graph)
    agree(model, graph, compile=False)
    assert model.run(graph, TOKENS)["by hand"].shape == (2, LENGTH, models.WIDTH)


@pytest.mark.parametrize("way", [mx.compile, mx.grad, mx.vmap])
def test_a_model_that_is_first_run_inside_a_transformation(way):
    model = mg.InterpretableModel(models.make_llama(False))
    with model.trace(TOKENS[:, :4]) as t:
        model.layers[1].mlp.output *= mg.param("alpha")
        model.output[:, -1].square().mean().save("s0")
    alpha = mx.array([0.5, 1.5]) if way is mx.vmap else mx.array(1.5)
    found = {
        optimize: way(
            lambda alpha, on=optimize: model.run(t.graph, TOKENS, alpha=alpha, optimize=on)["s0"]
        )(alpha)
        for optimize in (True, False)
    }
    assert models.same(found[True], found[False], 1e-4)
    assert at_few(model, t.graph, alpha=1.0)


# -- when in doubt, nothing ------------------------------------------------------------------------


def reads(name):
    return lambda m: m.layers[LAST].get_submodule(name).output.save("read")


def doubled(module):
    module.output = module.output * 2


def doubled_inside(m):
    m.layers[LAST].self_attn.queries[:] = m.layers[LAST].self_attn.queries * 2


LEFT_ALONE = {
    "its output is read": lambda m: m.layers[LAST].output.save("read"),
    "its output is written": lambda m: doubled(m.layers[LAST]),
    "its attention is read": lambda m: m.layers[LAST].self_attn.output.save("read"),
    "its mlp is written": lambda m: doubled(m.layers[LAST].mlp),
    "its first norm is read": lambda m: m.layers[LAST].input_layernorm.output.save("read"),
    "its pattern is read": lambda m: m.layers[LAST].self_attn.pattern.save("read"),
    "its queries are written": doubled_inside,
    "an operation is read": lambda m: m.layers[LAST].mlp.ops["swiglu"].output.save("read"),
    "the norm's input is read": lambda m: m.model.norm.input.save("read"),
    "the norm's input is written": lambda m: setattr(m.model.norm, "input", m.model.norm.input * 2),
    "it is skipped": lambda m: m.layers[LAST].skip(m.layers[0].output),
    "its attention is skipped": lambda m: m.layers[LAST].self_attn.skip(m.layers[0].output),
}


@pytest.mark.parametrize("what", LEFT_ALONE)
def test_whoever_looks_into_the_last_layer_finds_it_whole(model, what):
    graph = graph_of(model, edit=LEFT_ALONE[what])
    assert not at_few(model, graph)
    agree(model, graph, compile=False)


@pytest.mark.parametrize(
    "wanted",
    [
        lambda out: [out],
        lambda out: [out[:, 0]],
        lambda out: [out[:, 3:]],
        lambda out: [out[:, 1], out[:, -1]],
    ],
)
def test_where_most_positions_are_wanted_or_none_before_them_it_is_left_alone(model, wanted):
    graph = graph_of(model, wanted)
    assert not at_few(model, graph)
    agree(model, graph, compile=False)


def test_gradients_are_left_alone(model):
    with model.trace(TOKENS) as t:
        h = model.layers[0].output
        t.grad(model.output[:, -1].sum(), h).save()
    assert not at_few(model, t.graph)


def test_a_cache_of_the_users_is_left_alone(model):
    found = []
    for optimize in (False, True):
        cache = caches.make_prompt_cache(model.module)
        with model.trace(TOKENS, cache=cache, optimize=optimize):
            logits = model.output[:, -1].save()
        assert [one.offset for one in cache] == [LENGTH] * models.LAYERS
        assert cache[-1].keys is not None
        found.append((logits, cache[-1].state[0]))
    for plain, done in zip(*found, strict=True):
        assert models.same(plain, done)


class Numbered(llama.TransformerBlock):
    """Counts positions from where its own input starts."""

    def __call__(self, x, mask=None, cache=None):
        count = mx.arange(x.shape[1], dtype=x.dtype)[:, None]
        return super().__call__(x + 0.1 * count, mask, cache)


class Unmasked(llama.TransformerBlock):
    """Sees what comes later: a position in the middle needs keys after it."""

    def __call__(self, x, mask=None, cache=None):
        return super().__call__(x, None, cache)


class Twofold(llama.TransformerBlock):
    """Attends twice, into one cache."""

    def __call__(self, x, mask=None, cache=None):
        x = x + self.self_attn(self.input_layernorm(x), mask, cache)
        return super().__call__(x, mask, cache)


class Deaf(llama.TransformerBlock):
    """Has no attention."""

    def __call__(self, x, mask=None, cache=None):
        return x + self.mlp(self.post_attention_layernorm(x))


class Asking(llama.TransformerBlock):
    """Asks the cache for what only mlx-lm's own have."""

    def __call__(self, x, mask=None, cache=None):
        if cache is not None:
            cache.trim(0)
        return super().__call__(x, mask, cache)


class Uncached(llama.TransformerBlock):
    """Leaves its cache alone."""

    def __call__(self, x, mask=None, cache=None):
        return super().__call__(x, mask)


class Same(llama.TransformerBlock):
    """The control: nothing of its own."""


def with_last(kind, trusted=True):
    module = models.make_llama(False)
    block = kind(module.args)
    block.update(module.layers[-1].parameters())
    kind.__module__ = "mlx_lm.models.made_up" if trusted else __name__
    module.model.layers[-1] = block
    return mg.InterpretableModel(module)


@pytest.mark.parametrize(
    ("kind", "trusted", "last", "middle"),
    [
        (Same, True, True, True),
        (Same, False, False, False),
        (Numbered, True, False, False),
        (Unmasked, True, True, False),
        (Twofold, True, False, False),
        (Deaf, True, False, False),
        (Asking, True, False, False),
        (Uncached, True, False, False),
    ],
)
def test_only_what_gives_the_same_in_two_passes(kind, trusted, last, middle):
    model = with_last(kind, trusted)
    for wanted, few in (("last", last), ("third", middle)):
        graph = graph_of(model, WANTED[wanted])
        assert at_few(model, graph) == few
        agree(model, graph, compile=False)


class Gated(llama.TransformerBlock):
    """Adds what all positions have in common, times a weight that is 0 at first."""

    def __init__(self, args):
        super().__init__(args)
        self.gate = mx.zeros((1,))

    def __call__(self, x, mask=None, cache=None):
        return super().__call__(x, mask, cache) + self.gate * x.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_a_weight_of_zeros_hides_nothing(how):
    """It is asked once, and weights change."""
    model = with_last(Gated)
    block, graph = model.module.layers[-1], graph_of(model)
    assert not at_few(model, graph)
    if how == "in place":
        block.gate[:] = 1.0
    else:
        block.gate = mx.ones((1,))
    agree(model, graph, compile=False)


def test_an_attention_that_says_nothing_yet_is_tried_with_another():
    module = models.make_llama(False)
    weight = module.layers[-1].self_attn.o_proj.weight
    module.layers[-1].self_attn.o_proj.weight = mx.zeros_like(weight)
    model = mg.InterpretableModel(module)
    assert at_few(model, graph_of(model))
    module.layers[-1].self_attn.o_proj.weight = weight
    agree(model, graph_of(model), compile=False)


def test_a_block_too_large_to_be_tried_in_float32(monkeypatch):
    model = mg.InterpretableModel(in_dtype(mx.bfloat16))
    size = sum(w.size for _, w in tree_flatten(model.module.layers[-1].parameters()))
    for most, few in ((size - 1, False), (size, True)):
        model.refresh()
        monkeypatch.setattr(last_layer_check, "MOST", most)
        assert at_few(model, graph_of(model)) == few


class Lengthening(llama.Model):
    """Adds something of its own between the last block and the norm, by position."""

    def __init__(self, args):
        super().__init__(args)
        self.model.__class__ = _Between


class _Between(llama.LlamaModel):
    def __call__(self, inputs, cache=None, input_embeddings=None):
        h = self.embed_tokens(inputs)
        for layer in self.layers:
            h = layer(h, "causal", None)
        return self.norm(h + 0.1 * mx.arange(h.shape[1])[:, None])


def test_what_stands_between_the_last_layer_and_the_norm_is_looked_at():
    plain = models.make_llama(False)
    other = Lengthening(plain.args)
    other.update(plain.parameters())
    for kind in (Lengthening, _Between):
        kind.__module__ = "mlx_lm.models.made_up"
    model = mg.InterpretableModel(other)
    graph = graph_of(model)
    assert not at_few(model, graph)
    agree(model, graph)


# -- what is kept ----------------------------------------------------------------------------------


@pytest.fixture
def tried(monkeypatch):
    """The lengths at which the block was run both ways."""
    lengths = []
    real = last_layer.gives_the_same

    def counted(at, tree, call):
        lengths.append(at.length)
        return real(at, tree, call)

    monkeypatch.setattr(last_layer, "gives_the_same", counted)
    return lengths


def test_it_is_tried_once_for_lengths_that_are_alike(tried):
    model = mg.InterpretableModel(models.make_llama(False))
    for length in (40, 41, 45, 41):
        tokens = mx.arange(2 * length).reshape(2, length) % models.VOCABULARY
        agree(model, graph_of(model, tokens=tokens), tokens=tokens)
    assert tried == [40]
    model.refresh()
    agree(model, graph_of(model, tokens=tokens), tokens=tokens)
    assert tried == [40, 41]


def test_a_block_exchanged_later_is_seen():
    model = mg.InterpretableModel(models.make_llama(False))
    graph = graph_of(model)
    assert at_few(model, graph)
    Numbered.__module__ = "mlx_lm.models.made_up"
    block = Numbered(model.module.args)
    block.update(model.module.layers[-1].parameters())
    model.module.model.layers[-1] = block
    assert not at_few(model, graph)
    agree(model, graph)


def test_weights_that_are_followed_are_not_looked_at(tried):
    module = models.make_llama(False)
    model = mg.InterpretableModel(module)
    graph = graph_of(model, tokens=TOKENS[:, :4])

    def last(weights, optimize):
        module.update(nn.utils.tree_unflatten([*weights.items()]))
        return model.run(graph, TOKENS, optimize=optimize)["s0"]

    weights = dict(tree_flatten(module.parameters()))
    plain = last(weights, False)
    tried.clear()
    assert models.same(mx.compile(lambda w: last(w, True))(weights), plain, 1e-4)
    module.update(nn.utils.tree_unflatten([*weights.items()]))
    assert tried  # it was, in vain, and is asked again where it can be known
    assert at_few(model, graph)


def test_it_holds_under_transformations(model):
    def edit(m):
        m.layers[1].mlp.output *= mg.param("alpha")

    graph = graph_of(model, lambda out: [out[:, -1].square().mean()], edit)
    assert at_few(model, graph, alpha=1.0)

    def loss(alpha, optimize):
        return model.run(graph, TOKENS, alpha=alpha, optimize=optimize)["s0"]

    slopes = [mx.grad(loss)(mx.array(1.5), optimize) for optimize in (False, True)]
    assert models.same(*slopes, 1e-4) and abs(slopes[0].item()) > 1e-4
    many = mx.vmap(lambda alpha: loss(alpha, True))(mx.array([0.5, 1.5]))
    assert models.same(many[1], loss(mx.array(1.5), False), 1e-4)
    compiled = mx.compile(lambda alpha: loss(alpha, True))(mx.array(1.5))
    assert models.same(compiled, loss(mx.array(1.5), False), 1e-4)


def test_gradients_by_the_weights_are_the_same():
    module = models.make_llama(False)
    model = mg.InterpretableModel(module)
    graph = graph_of(model, lambda out: [out[:, -1].square().mean()])
    assert at_few(model, graph)

    def loss(module, optimize):
        return model.run(graph, TOKENS, optimize=optimize)["s0"]

    step = nn.value_and_grad(module, loss)
    (_, plain), (_, done) = step(module, False), step(module, True)
    for (name, a), (_, b) in zip(tree_flatten(plain), tree_flatten(done), strict=True):
        assert models.same(a, b, 1e-4), name
    assert mx.abs(plain["model"]["layers"][-1]["self_attn"]["k_proj"]["weight"]).max() > 1e-4


# -- for whoever hooks the block -------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3", "ministral3"])
def test_a_hook_runs_it_on_any_number_of_rows(name, rows):
    module = configs.build(name)
    runner = Runner(module)
    call = describe_call((TOKENS[:1],), {})
    at = runner.last_layer.at(runner.census(call), call, 5, 7)
    assert at is not None and at.path == f"model.layers.{len(module.layers) - 1}"
    found = []

    def hook(path, original, args, kwargs):
        noise = mx.random.normal((rows, *args[0].shape[1:]), key=mx.random.key(1))
        args = (noise, *args[1:])
        whole = original(*args, **kwargs)
        found.append((whole[:, 5:7], at.run(original, args, kwargs)))
        return whole

    StandIn(runner.tree, [at.path], hook).root(TOKENS[:1])
    ((plain, few),) = found
    assert few.shape == (rows, 2, plain.shape[-1])
    assert models.same(plain, few, 1e-4)
    assert mx.abs(plain).max().item() > 0.1


WINDOWS = ("gemma2", "gemma3", "mellum", "gpt_oss", "cohere2", "deepseek_v3", "gptj", "mistral4")
QUICK = ("llama", *WINDOWS)
KNOWN = configs.installed(configs.KNOWN.split())
TEXTS = mx.array([[7, 21, 3, 88, 40, 5, 63, 12, 9, 10, 11, 13]] * 2 + [[*range(1, 13)]])


def wanted_logits(name, wanted):
    """Logits at positions, with the last layer whole and at few; and whether it was so."""
    model = mg.InterpretableModel(configs.build(name))
    with model.trace(TEXTS, optimize=False, compile=False) as t:
        output = model.output
        output = output if isinstance(output.shape, tuple) else output[0]
        output[:, wanted].save("s0")
    few = at_few(model, t.graph, TEXTS)
    plain = t.get("s0")
    done = [model.run(t.graph, TEXTS, compile=way)["s0"] for way in (False, "auto")]
    return plain, done, few


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("wanted", [-1, slice(7, 10)])
@pytest.mark.thin(4)
def test_architectures_with_masks_of_their_own(name, wanted):
    plain, done, few = wanted_logits(name, wanted)
    assert few
    for value in done:
        assert mx.abs(value - plain).max().item() <= NEAR * mx.abs(plain).max().item()


@pytest.mark.parametrize("length", [5, 6, 7, 12])
def test_lengths_about_a_window(length):
    """A window of six tokens: its mask is another one where the text is longer."""
    model = mg.InterpretableModel(configs.build("olmo3"))
    for tokens in (TEXTS[:, :length], TEXTS[:, : length - 1]):
        graph = graph_of(model, tokens=tokens)
        assert at_few(model, graph, tokens)
        agree(model, graph, tokens=tokens, compile=False)


@pytest.mark.slow
def test_every_architecture_gives_the_same_and_most_do_with_less():
    applied = []
    for name in KNOWN:
        if name in parts.NO_CALLS:
            continue
        plain, done, few = wanted_logits(name, -1)
        for value in done:
            gap = mx.abs(value - plain).max().item()
            assert gap <= NEAR * mx.abs(plain).max().item(), name
        applied += [name] * few
    assert len(applied) >= 80
    assert not {"mamba", "jamba", "rwkv7", "recurrent_gemma", "plamo2"} & set(applied)
