"""A folded model is the edited one; what no weight can hold is refused, with the edit and why."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import CountError, FoldError, InputError, NotAGraphError, UnknownSiteError
from tests.folding.helpers import (
    TEXT,
    TOKENS,
    UNUSED,
    apart,
    built,
    direction,
    equal,
    first,
    quantised,
    weights_of,
    without,
)

FLOAT = 1e-5
MATTERS = 1e-2

# What one may do at a site that ends in linear modules, by name.
MAPS = {
    "project_out": lambda width: iv.project_out(direction(width)),
    "two directions": lambda width: iv.project_out(
        mx.stack([direction(width), direction(width, 2)])
    ),
    "scale": lambda width: iv.scale(0.25),
    "scale by entry": lambda width: iv.scale(direction(width)),
    "zero_out": lambda width: iv.zero_out,
    "composed": lambda width: iv.compose(
        iv.scale(3.0), iv.project_out(direction(width)), iv.scale(direction(width))
    ).build(),
    "by hand": lambda width: lambda h: h - (h @ direction(width))[..., None] * direction(width) / 9,
    "a sum by hand": lambda width: (
        lambda h: h - mx.sum(h * direction(width), axis=-1, keepdims=True) * direction(width) / 9
    ),
    "a matrix": lambda width: lambda h: -h @ mx.outer(direction(width), direction(width, 3)) / 9,
}
ARCHITECTURES = {  # what sets each apart, beside a Llama
    "gpt2": "biases, layers by another name",
    "phi": "attention and MLP side by side",
    "gemma2": "norms after both",
    "mixtral": "experts",
    "qwen2_moe": "experts, and a shared one behind a gate",
    "deepseek_v3": "experts and shared ones, another attention",
    "granite": "a number on all that is added to the stream",
    "mamba2": "no attention",
    "hunyuan": "attention that gives a tuple",
}


def parts(model: mg.InterpretableModel) -> list[str]:
    """The patterns of a model's attentions and MLPs, where it has them."""
    found = []
    for name in ("layers.*.attn", "layers.*.mlp", "layers.*.mixer"):
        try:
            found += [name] if model.sites(name) else []
        except UnknownSiteError:
            continue
    return found


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.thin(3)
def test_folded_is_edited(tiny, name):
    function = MAPS[name](128)
    graph = mg.edit("layers.[1-4].mlp", function) >> mg.edit("layers.[2-5].attn", function)
    edited, folded = tiny.edit(graph), tiny.fold(graph)
    assert not folded.edits.then
    assert apart(folded(TEXT), edited(TEXT)) < FLOAT
    assert apart(folded(TEXT), tiny(TEXT)) > MATTERS
    assert apart(folded(UNUSED), edited(UNUSED)) < FLOAT


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.thin(3)
def test_folded_is_edited_on_other_architectures(name):
    model = built(name)
    graph = mg.chain(*(mg.edit(part, iv.project_out(direction(64))) for part in parts(model)))
    folded, edited = model.fold(graph), model.edit(graph)
    for tokens in (TOKENS, UNUSED):
        assert apart(first(folded(tokens)), first(edited(tokens))) < FLOAT
    assert apart(first(folded(TOKENS)), first(model(TOKENS))) > MATTERS


def test_the_weights_are_those_by_hand(tiny):
    """Law 20: removing a direction at every writer = orthogonalising what writes."""
    v = direction(128)
    folded = tiny.fold(mg.directional_ablation(tiny, v), untie=True)
    for name in ("attn.o_proj", "mlp.down_proj"):
        for layer in range(6):
            path = f"layers.{layer}.{name}"
            assert apart(folded.weight(path), without(tiny.weight(path), v)) < 1e-6
            assert apart(folded.weight(path), tiny.weight(path)) > MATTERS
    table = tiny.weight("model.embed_tokens")
    assert apart(folded.weight("model.embed_tokens"), without(table.T, v).T) < 1e-6
    assert mx.array_equal(
        folded.weight("model.lm_head"), table
    )  # the head keeps the embedding it was
    assert mx.array_equal(
        folded.weight("layers.2.mlp.up_proj"), tiny.weight("layers.2.mlp.up_proj")
    )


def test_twice_is_once(tiny):
    graph = mg.edit("layers.*.mlp", iv.project_out(direction(128)))
    once = tiny.fold(graph)
    assert apart(once.fold(graph)(TEXT), once(TEXT)) < FLOAT


def test_edits_of_one_module_come_in_the_order_of_the_forward(tiny):
    """What is inside comes first, whichever was written first."""
    scale, ablate = iv.scale(direction(128)), iv.project_out(direction(128, 2))
    outer, inner = mg.edit("layers.3.mlp", ablate), mg.edit("layers.3.mlp.down_proj", scale)
    for graph in (outer >> inner, inner >> outer):
        assert apart(tiny.fold(graph)(TEXT), tiny.edit(graph)(TEXT)) < FLOAT
    one, other = (mg.edit("layers.3.mlp", f) for f in (scale, ablate))
    assert apart(tiny.fold(one >> other)(TEXT), tiny.edit(one >> other)(TEXT)) < FLOAT
    assert apart(tiny.fold(other >> one)(TEXT), tiny.edit(other >> one)(TEXT)) < FLOAT
    assert apart(tiny.fold(other >> one)(TEXT), tiny.fold(one >> other)(TEXT)) > 1e-3


def test_edits_that_stay_and_those_of_a_block_fold_too(tiny):
    v = direction(128)
    with tiny.edit() as edited:
        h = tiny.layers[2].mlp.output
        h -= (h @ v)[..., None] * v / (v @ v)
        h[:] *= 0.5
        tiny.layers[0].attn.output = mx.zeros_like(tiny.layers[0].attn.output)
    more = mg.edit("layers.4.mlp", iv.scale(-1.0))
    assert apart(edited.fold()(TEXT), edited(TEXT)) < FLOAT
    assert apart(edited.fold(more)(TEXT), edited.edit(more)(TEXT)) < FLOAT
    with tiny.trace(TEXT) as trace:
        tiny.layers[1].mlp.output = tiny.layers[1].mlp.output * 2
        tiny.output.save()
    with pytest.raises(FoldError, match=r"g.replace\(saves=\(\)\)"):
        tiny.fold(trace)
    trace = trace.graph.replace(saves=())
    assert apart(tiny.fold(trace)(TEXT), tiny.edit(trace)(TEXT)) < FLOAT


def test_a_constant_goes_into_a_bias_and_an_embedding():
    model, v = built("gpt2"), direction(64)
    graph = (
        mg.edit("layers.*.mlp", iv.add_vector(v))
        >> mg.edit("layers.1.mlp", iv.project_out(direction(64, 2)))
        >> mg.edit("layers.*.attn", iv.replace_with(v))
        >> mg.edit("model.wpe", iv.add_vector(v))
    )
    folded, edited = model.fold(graph), model.edit(graph)
    assert apart(first(folded(TOKENS)), first(edited(TOKENS))) < FLOAT
    assert apart(first(folded(TOKENS)), first(model(TOKENS))) > MATTERS


def test_the_model_is_as_it_was_and_shares_what_is_not_folded(tiny):
    before, plain = weights_of(tiny), tiny(TEXT)
    folded = tiny.fold(mg.directional_ablation(tiny, direction(128)), untie=True)
    assert equal(weights_of(tiny), before)
    assert mx.array_equal(tiny(TEXT), plain)
    assert tiny.module.args.tie_word_embeddings
    own, other = tiny.module.layers[0].mlp, folded.module.layers[0].mlp
    assert own is not other
    assert own.up_proj["weight"] is other.up_proj["weight"]


def test_randomness_is_left_alone(tiny):
    mx.random.seed(4)
    want = mx.random.normal((3,))
    mx.random.seed(4)
    tiny.fold(mg.directional_ablation(tiny, direction(128)), untie=True)
    assert mx.array_equal(mx.random.normal((3,)), want)


def test_a_folded_model_is_a_model(tiny):
    folded = tiny.fold(mg.edit("layers.*.mlp", iv.scale(0.5)))
    with folded.trace(TEXT) as trace:
        logits = folded.output[:, -1].save()
    assert logits.shape == (1, 1014)
    assert trace.tokens.shape[0] == 1
    edited = tiny.edit(mg.edit("layers.*.mlp", iv.scale(0.5)))
    options = {"max_tokens": 5}
    assert folded.generate(TEXT, **options).text == edited.generate(TEXT, **options).text


# -- quantised -----------------------------------------------------------------------------------

WAYS = [
    {"bits": 4},
    {"bits": 8, "group_size": 64},
    {"bits": 4, "mode": "mxfp4"},
]


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.thin(3)
def test_quantised_weights_are_folded_and_quantised_again(how):
    """The same numbers as dequantising, projecting and quantising by hand."""
    model, v = quantised(mg.tiny(), **how), direction(128)
    folded = model.fold(mg.edit("layers.*.mlp", iv.project_out(v)))
    by_hand = quantised(mg.tiny(), **how)
    for layer in by_hand.module.layers:
        old = layer.mlp.down_proj
        options = {"group_size": old.group_size, "bits": old.bits, "mode": old.mode}
        floats = mx.dequantize(old.weight, old.scales, old.get("biases"), **options)
        new = mx.quantize(without(floats.astype(mx.float32), v), **options)
        for name, array in zip(("weight", "scales", "biases"), new, strict=False):
            setattr(old, name, array)
    assert apart(folded(TEXT), by_hand(TEXT)) < 2e-2  # codes on a boundary may fall either way
    assert apart(folded(TEXT), model(TEXT)) > 4e-2
    for name, module in model.named_modules():
        own = folded[name].module
        assert getattr(own, "bits", 0) == getattr(module, "bits", 0)
        assert getattr(own, "group_size", 0) == getattr(module, "group_size", 0)


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2"])
def test_requantising_adds_the_rounding_of_a_quantisation(name):
    model, v = quantised(built(name), bits=4), direction(64)
    graph = mg.edit("layers.*.mlp", iv.project_out(v))
    folded, found = model.fold(graph), 0
    for path, module in model.named_modules():
        own = folded[path].module
        if "scales" not in module or mx.array_equal(own.weight, module.weight):
            continue
        ideal, got = without(model.weight(path), v), folded.weight(path)
        step = mx.repeat(mx.abs(own.scales), own.group_size, axis=-1)
        steps = mx.abs(got - ideal) / step
        assert (steps <= 1.001).all().item()
        assert 0.2 < mx.sqrt(mx.mean(steps * steps)).item() < 0.32  # 1 / sqrt(12) = 0.29
        found += 1
    assert found == len(model.layers)
    exact = model.edit(graph)
    assert apart(first(folded(TOKENS)), first(exact(TOKENS))) < apart(
        first(model(TOKENS)), first(exact(TOKENS))
    )


@pytest.mark.parametrize("factor", [0.3, direction(128)], ids=["number", "by entry"])
def test_a_scale_keeps_the_bits(factor):
    model = quantised(mg.tiny())
    graph = mg.edit("layers.*.mlp", iv.scale(factor))
    folded = model.fold(graph)
    own, before = folded.module.layers[2].mlp.down_proj, model.module.layers[2].mlp.down_proj
    assert mx.array_equal(own.weight, before.weight)
    assert apart(folded(TEXT), model.edit(graph)(TEXT)) < FLOAT
    assert apart(folded(TEXT), model(TEXT)) > MATTERS


def test_half_precision_keeps_its_dtype():
    model = mg.tiny()
    model.module.set_dtype(mx.bfloat16)
    model = mg.InterpretableModel(model.module, model.tokenizer)
    graph = mg.directional_ablation(model, direction(128))
    folded = model.fold(graph, untie=True)
    assert {a.dtype for a in folded.parameters().values()} == {mx.bfloat16}
    assert apart(folded(TEXT), model.edit(graph)(TEXT)) < 5e-2
    assert apart(folded(TEXT), model(TEXT)) > 5e-2


# -- what is refused -----------------------------------------------------------------------------

V = direction(128)
REFUSED = {
    "positions": (mg.edit("layers.3.mlp", iv.scale(0.5), positions=-1), "positions="),
    "heads": (mg.edit("layers.3.attn", iv.scale(0.5), heads=[1]), "heads="),
    "no bias": (mg.edit("layers.2.mlp", iv.add_vector(V)), "down_proj has no bias"),
    "clamp": (mg.edit("layers.2.mlp", iv.clamp(-1, 1)), "maximum"),
    "rescale": (mg.edit("layers.2.mlp", iv.rescale(2.0)), "multiplies the value of its site"),
    "noise": (mg.edit("layers.2.mlp", iv.noise(0.1)), "random numbers"),
    "tanh": (mg.edit("layers.2.mlp", lambda h: mx.tanh(h)), "tanh"),
    "square": (mg.edit("layers.2.mlp", lambda h: h * h), "multiplies the value"),
    "over": (mg.edit("layers.2.mlp", lambda h: 1 / (h + 9)), "divides by the value"),
    "opaque": (mg.edit("layers.2.mlp", lambda h: mg.apply(mx.negative, h)), "cannot look into"),
    "whole numbers": (mg.edit("layers.2.mlp", lambda h: h.astype(mx.int32)), "whole numbers"),
    "sum of positions": (
        mg.edit("layers.2.mlp", lambda h: h - mx.sum(h, axis=1, keepdims=True)),
        "sums over more",
    ),
    "some entries": (mg.edit("layers.2.mlp", lambda h: h.at[..., 3].add(1.0)), "at.add"),
    "by position": (
        mg.edit("layers.2.mlp", lambda h: h * mx.arange(h.shape[1])[:, None]),
        "at each position",
    ),
    "by length": (mg.edit("layers.2.mlp", lambda h: h / h.shape[1]), "another shape"),
    "by rows": (mg.edit("layers.2.mlp", lambda h: h * 2 if len(h) > 1 else h), "another shape"),
    "by its numbers": (
        mg.edit("layers.2.mlp", lambda h: h * 2 if float(h.max()) > -9 else h),
        "looks at the numbers",
    ),
    "param": (mg.edit("layers.2.mlp", iv.scale(mg.param("a"))), "g.bind(a=...)"),
    "norm": (mg.edit("layers.2.input_layernorm", iv.scale(0.3)), "no linear function"),
    "stream": (mg.edit("layers.3", iv.project_out(V)), "mg.directional_ablation"),
    "gate": (mg.edit("layers.3.mlp.gate_proj", iv.scale(0.5)) >> mg.read("layers.2"), "saves"),
    "pattern": (mg.edit("layers.2.attn.pattern", iv.scale(0.3)), "computes inside"),
    "input": (mg.edit("layers.2.mlp.input", iv.scale(0.3)), "is given"),
    "tied": (mg.edit("model.embed_tokens", iv.project_out(V)), "untie=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_weight_can_hold_is_refused(tiny, name):
    graph, said = REFUSED[name]
    before = weights_of(tiny)
    with pytest.raises(FoldError) as caught:
        tiny.fold(graph)
    for part in (said, "layers" if name != "tied" else "model.embed_tokens", "test_folding.py:"):
        assert part in str(caught.value)
    assert caught.traceback[-1].path.name == "test_folding.py"
    assert equal(weights_of(tiny), before)


def test_edits_of_a_block_are_refused_with_their_line(tiny):
    with tiny.trace(TEXT) as trace:
        tiny.layers[2].mlp.output[:, -1] *= 0.5
    with pytest.raises(FoldError, match=r"(?s)layers.2.mlp.*some positions.*test_folding.py"):
        tiny.fold(trace)
    with tiny.trace(TEXT) as trace:
        tiny.layers[2].mlp.output[:, -1] = mx.zeros((1, 128))
    with pytest.raises(FoldError, match="edits some positions"):
        tiny.fold(trace)
    with tiny.trace(TEXT) as trace:
        tiny.layers[2].mlp.output = tiny.layers[1].mlp.output
    with pytest.raises(FoldError, match="reads .*layers.1.mlp"):
        tiny.fold(trace)
    with tiny.trace(TEXT) as trace:
        tiny.layers[2].mlp.skip(mx.zeros((1, 6, 128)))
    with pytest.raises(FoldError, match="skips"):
        tiny.fold(trace, TEXT)


def test_other_mistakes(tiny):
    with pytest.raises(InputError, match="no edits to fold"):
        tiny.fold()
    with pytest.raises(NotAGraphError):
        tiny.fold(iv.scale(0.5))
    with pytest.raises(UnknownSiteError):
        tiny.fold(mg.edit("layers.3.mpl", iv.scale(0.5)))
    with pytest.raises(CountError):
        tiny.fold(mg.edit("layers.*.mlp", iv.scale(0.5), expect=3))


def test_a_param_with_a_value_folds(tiny):
    graph = mg.edit("layers.2.mlp", iv.scale(mg.param("a"))).bind(a=0.5)
    assert apart(tiny.fold(graph)(TEXT), tiny.edit(graph)(TEXT)) < FLOAT


def test_a_norm_after_the_weights_is_in_the_way():
    model = built("gemma2")
    with pytest.raises(FoldError, match="post_attention_layernorm"):
        model.fold(mg.directional_ablation(model, direction(64)))


def test_a_head_that_cannot_be_untied_is_refused():
    model = built("gpt2")
    with pytest.raises(FoldError, match="no head of its own"):
        model.fold(mg.edit("model.wte", iv.scale(2.0)), untie=True)


def test_experts_take_no_constant():
    model = built("mixtral")
    with pytest.raises(FoldError, match="down_proj"):
        model.fold(mg.edit("layers.1.mlp", iv.add_vector(direction(64))))


def test_modules_that_are_called_twice_or_twice_used_are_refused():
    class Looped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(6, 6), nn.Linear(6, 6)]

        def __call__(self, x):
            x = mx.tanh(self.layers[0](x))
            return self.layers[1](self.layers[0](x)) @ self.layers[1].weight

    model, x = mg.InterpretableModel(Looped()), mx.random.normal((1, 4, 6))
    for name in ("layers.0", "layers.1"):
        with pytest.raises(FoldError, match="used elsewhere"):
            model.fold(mg.edit(name, iv.scale(0.5)), x)


def test_a_cap_that_small_values_pass_is_seen():
    """A value that looks linear where it is small is none."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6, bias=False)

        def __call__(self, x):
            return 30 * mx.tanh(self.inner(x) / 30)

    class Capped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [Block()]

        def __call__(self, x):
            return self.layers[0](x)

    model, x = mg.InterpretableModel(Capped()), mx.random.normal((1, 4, 6))
    with pytest.raises(FoldError, match="no linear function"):
        model.fold(mg.edit("layers.0", iv.scale(0.5)), x)
    assert apart(model.fold(mg.edit("layers.0.inner", iv.scale(0.5)), x)(x), model(x)) > MATTERS
