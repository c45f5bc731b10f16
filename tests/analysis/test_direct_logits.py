"""Direct logit attribution: parts add up to the logit, and each is what one computes by hand."""

from __future__ import annotations

import traceback
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.analysis.direct_logits import WAYS
from mlxgraph.errors import (
    DecompositionError,
    InputError,
    MLXGraphError,
    NoLayerError,
    PositionError,
    TokenError,
    UnembeddingError,
    UnknownNameError,
    UnknownSiteError,
    VocabularyError,
)
from tests.analysis.test_patching_maps import MODELS, made
from tests.architectures import configs
from tests.models import make_llama

IDS = [3, 17, 5, 9, 22, 4]
TEXT = "The capital of France is"
LAWS = {
    **MODELS,
    "phi": lambda: made("phi"),
    "cohere": lambda: made("cohere"),
    "gemma3_text": lambda: made("gemma3_text"),
    "olmo2": lambda: made("olmo2"),
    "mixtral": lambda: made("mixtral"),
    "granite": lambda: made("granite"),  # half of what the parts give is added
    "untied": lambda: mg.InterpretableModel(make_llama(tied=False)),
}
EXPERTS = ("qwen2_moe", "mixtral")


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


def total(effects: mg.Effects) -> float:
    return float(np.nansum(np.asarray(effects).astype(np.float64))) + effects.attrs["rest"]


def near(one: Any, other: Any, tolerance: float = 1e-5) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return one.shape == other.shape and bool(np.allclose(one, other, tolerance, tolerance))


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.thin(6)
def test_the_parts_add_up_to_the_models_own_logit(name, by):
    model = LAWS[name]()
    if by == "neuron" and name in EXPERTS:
        with pytest.raises(DecompositionError, match="experts"):
            model.direct_logit_attribution(IDS, 7, by=by)
        return
    found = model.direct_logit_attribution(IDS, 7, by=by)
    with model.trace(mx.array([IDS])):
        logits = model.output[0, -1].save()
    assert total(found) == pytest.approx(found.attrs["logit"], abs=2e-5)
    logit, after = found.attrs["logit"], found.attrs["after"]
    if "softcap" in after:
        logit = after["softcap"] * np.tanh(logit / after["softcap"])
    logit *= after.get("scale", 1.0)
    assert logit == pytest.approx(logits[7].item(), abs=1e-4 * mx.abs(logits).max().item())
    assert found.attrs["model_logit"] == pytest.approx(logits[7].item(), abs=1e-6)
    # the control: no part can be left out
    largest = np.nanmax(np.abs(np.asarray(found)))
    assert largest > 1e-2 * abs(total(found)), "the parts must matter"


@pytest.mark.parametrize(("name", "after"), [("gemma2", "softcap"), ("cohere", "scale")])
def test_what_the_model_makes_of_the_sum_is_said(name, after):
    found = made(name).direct_logit_attribution(IDS)
    assert found.attrs["after"] == {after: {"softcap": 30.0, "scale": 0.0625}[after]}
    assert found.attrs["model_logit"] != pytest.approx(found.attrs["logit"], rel=1e-4)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_in_few_bits_the_sum_is_off_by_rounding_and_says_by_how_much(dtype):
    model = mg.tiny()
    model.module.set_dtype(dtype)
    found = model.direct_logit_attribution(TEXT, " Paris")
    assert total(found) + found.attrs["rounding"] == pytest.approx(found.attrs["logit"], abs=1e-4)
    assert 0 < abs(found.attrs["rounding"]) < 0.02
    whole = mg.tiny().direct_logit_attribution(TEXT, " Paris")
    assert near(found, whole, 0.1) and not near(found, whole)


# -- by hand ---------------------------------------------------------------------------------------


class ByHand:
    """A Llama's forward written out, and a direction of the stream for a token's logit."""

    def __init__(self, model: mg.InterpretableModel, ids: list[int], token: int):
        root = model.module.model
        self.model, self.root = model, root
        h = root.embed_tokens(mx.array([ids]))
        self.values = {"embed": h}
        for k, layer in enumerate(root.layers):
            h = h + self.keep(
                f"layers.{k}.attn", layer.self_attn(layer.input_layernorm(h), "causal")
            )
            h = h + self.keep(f"layers.{k}.mlp", layer.mlp(layer.post_attention_layernorm(h)))
        scale = mx.rsqrt(mx.mean(h * h, axis=-1, keepdims=True) + root.norm.eps)
        rows = model.weight("model.embed_tokens")
        self.direction = (scale * root.norm.weight * rows[token])[0]  # (length, width)

    def keep(self, name: str, value: mx.array) -> mx.array:
        self.values[name] = value
        return value

    def component(self, position: int) -> list[float]:
        return [(v[0, position] @ self.direction[position]).item() for v in self.values.values()]


@pytest.mark.parametrize("name", ["tiny", "tiny in 4 bits"])
def test_components_by_hand(name):
    model = MODELS[name]()
    for position in (-1, 2):
        found = model.direct_logit_attribution(IDS, 7, position=position)
        by_hand = ByHand(model, IDS, 7)
        assert list(found.axes["component"]) == list(by_hand.values)
        assert near(found, by_hand.component(position), 1e-4)


@pytest.mark.parametrize("name", ["tiny", "tiny in 4 bits"])
def test_heads_neurons_and_positions_by_hand(name):
    model = MODELS[name]()
    by_hand = ByHand(model, IDS, 7)
    direction = by_hand.direction[-1]
    heads = model.direct_logit_attribution(IDS, 7, by="head")
    neurons = model.direct_logit_attribution(IDS, 7, by="neuron")
    positions = model.direct_logit_attribution(IDS, 7, by="position")
    for k in range(len(model.layers)):
        with model.trace(mx.array([IDS])):
            attn = model.layers[k].attn
            z, pattern, values = (
                attn.heads[0, :, -1].save(),
                attn.pattern[0, :, -1].save(),
                attn.values[0].save(),
            )
            hidden = model.layers[k].mlp.down_proj.input[0, -1].save()
        output = model.weight(f"layers.{k}.attn.o_proj")
        count, size = z.shape
        columns = [output[:, h * size : (h + 1) * size] for h in range(count)]
        own = [(columns[h] @ z[h] @ direction).item() for h in range(count)]
        assert near(heads.sel(layer=k), own, 1e-4)
        down = model.weight(f"layers.{k}.mlp.down_proj")
        assert near(neurons.sel(layer=k), (direction @ down) * hidden, 1e-4)
        shared = count // values.shape[0]  # query heads that share a key-value head
        from_each = sum(
            pattern[h][:, None] * values[h // shared] @ columns[h].T @ direction
            for h in range(count)
        )
        assert near(positions.sel(layer=k), from_each, 1e-4)


def test_heads_behind_a_norm_by_hand():
    """Gemma 2 norms what attention gives: the norm's scale is fixed too."""
    model = made("gemma2")
    found = model.direct_logit_attribution(IDS, 7, by="head")
    with model.trace(mx.array([IDS])):
        last = model.layers[-1].output[0, -1].save()
        parts = [layer.attn.heads[0, :, -1].save() for layer in model.layers]
        whole = [layer.attn.output[0, -1].save() for layer in model.layers]
    row, eps = model.unembed(7), model.module.model.norm.eps
    scale = mx.rsqrt(mx.mean(last * last) + eps)
    direction = scale * (1 + model.module.model.norm.weight) * row
    for k, (z, attention) in enumerate(zip(parts, whole, strict=True)):
        output = model.weight(f"layers.{k}.attn.o_proj")
        norm = model.module.model.layers[k].post_attention_layernorm
        gain = mx.rsqrt(mx.mean(attention * attention) + norm.eps) * (1 + norm.weight)
        size = z.shape[-1]
        own = [
            ((output[:, h * size : (h + 1) * size] @ z[h]) * gain @ direction).item()
            for h in range(z.shape[0])
        ]
        assert near(found.sel(layer=k), own, 1e-4)


def test_a_layer_norm_takes_its_mean_off_by_hand():
    model = made("gpt2")
    found = model.direct_logit_attribution(IDS, 7)
    with model.trace(mx.array([IDS])):
        last = model.layers[-1].output[0, -1].save()
        tokens, places = model.model.wte.output[0, -1].save(), model.model.wpe.output.save()
        attention = model.layers[1].attn.output[0, -1].save()
    norm = model.module.model.ln_f
    direction = mx.rsqrt(mx.var(last) + norm.eps) * norm.weight * model.unembed(7)
    by_hand = {
        "embed": tokens,
        "pos_embed": places.reshape(-1, tokens.shape[-1])[-1],
        "layers.1.attn": attention,
    }
    for name, value in by_hand.items():
        share = ((value - mx.mean(value)) @ direction).item()
        assert found.item(component=name) == pytest.approx(share, abs=1e-5)
    bias = (norm.bias @ model.unembed(7)).item()
    assert found.item(component="final_norm.bias") == pytest.approx(bias, abs=1e-5)
    assert abs(bias) > 1e-4


# -- what may be asked -----------------------------------------------------------------------------


def test_a_difference_is_the_difference_of_two(tiny):
    for by in WAYS:
        paris, london = (
            np.asarray(tiny.direct_logit_attribution(TEXT, token, by=by))
            for token in (" Paris", " London")
        )
        both = tiny.direct_logit_attribution(TEXT, " Paris", " London", by)
        assert near(both, paris - london, 1e-4)
        assert both.name == "logit difference" and both.attrs["against"] == " London"
        assert total(both) == pytest.approx(both.attrs["logit"], abs=1e-4)


@pytest.mark.parametrize("by", ["component", "head", "neuron"])
@pytest.mark.thin(3)
def test_several_tokens_and_positions_are_each_by_itself(tiny, by):
    found = tiny.direct_logit_attribution(IDS, [7, 9], by=by, position=[1, 4, -1])
    assert found.dims[:2] == ("target", "position") and found.axes["position"] == (1, 4, 5)
    for token in (7, 9):
        for position in (1, 4, 5):
            one = tiny.direct_logit_attribution(IDS, token, by=by, position=position)
            assert near(found.sel(target=token, position=position), one, 1e-4)
            logit = np.asarray(found.attrs["logit"])[(7, 9).index(token), (1, 4, 5).index(position)]
            assert logit == pytest.approx(one.attrs["logit"], abs=1e-4)
    every = tiny.direct_logit_attribution(TEXT, " Paris", by=by, position="all")
    assert every.coords["token"][1][-1] == " is"
    assert every.dims[0] == "position" and every.shape[0] == len(every.coords["token"][1])


def test_without_a_token_it_is_the_models_own_choice(tiny):
    found = tiny.direct_logit_attribution(TEXT)
    assert found.attrs["targets"] == (" Paris",)
    assert found == tiny.direct_logit_attribution(TEXT, " Paris")


def test_layers_are_those_asked_for_and_the_rest_is_said(tiny):
    whole = tiny.direct_logit_attribution(TEXT, " Paris")
    some = tiny.direct_logit_attribution(TEXT, " Paris", layers=[3, 1])
    names = ["layers.3.attn", "layers.3.mlp", "layers.1.attn", "layers.1.mlp"]
    assert list(some.axes["component"]) == names
    assert near(some, whole.sel(component=names))
    assert total(some) == pytest.approx(total(whole), abs=1e-4)
    heads = tiny.direct_logit_attribution(TEXT, " Paris", by="head", layers=[4])
    assert heads.axes["layer"] == (4,)
    assert total(heads) == pytest.approx(heads.attrs["logit"], abs=1e-4)


def test_the_heads_of_a_layer_add_up_to_its_attention(tiny):
    parts = tiny.direct_logit_attribution(TEXT, " Paris")
    for by, kind in (("head", "attn"), ("position", "attn"), ("neuron", "mlp")):
        found = tiny.direct_logit_attribution(TEXT, " Paris", by=by)
        for layer in range(6):
            share = parts.item(component=f"layers.{layer}.{kind}")
            assert np.asarray(found.sel(layer=layer)).sum() == pytest.approx(share, abs=1e-4)


def test_layers_of_several_kinds_share_an_axis():
    found = made("lfm2").direct_logit_attribution(IDS, 7, by="head")  # one attention of three
    assert found.axes["layer"] == (1,)
    assert total(found) == pytest.approx(found.attrs["logit"], abs=1e-4)
    with pytest.raises(UnknownSiteError):
        made("lfm2").direct_logit_attribution(IDS, 7, by="head", layers=[0])
    wide = made("gemma4_text").direct_logit_attribution(IDS, 7, by="neuron")
    assert total(wide) == pytest.approx(wide.attrs["logit"], abs=1e-4)


# -- models that are edited, or change -------------------------------------------------------------


def test_edits_at_writers_are_seen_and_edits_of_the_stream_refused(tiny):
    scaled = tiny.edit(mg.edit("layers.2.mlp", iv.scale(3.0)))
    before = tiny.direct_logit_attribution(TEXT, " Paris")
    after = scaled.direct_logit_attribution(TEXT, " Paris")
    assert total(after) == pytest.approx(after.attrs["model_logit"], abs=1e-4)
    assert not near(after, before, 1e-2)
    with pytest.raises(DecompositionError, match=r"layers\.2 adds"):
        tiny.edit(mg.edit("layers.2", iv.scale(3.0))).direct_logit_attribution(TEXT, " Paris")
    with pytest.raises(DecompositionError, match="logits are not"):
        added = mg.edit("__model_output__", iv.add_vector(mx.arange(tiny.vocab_size) * 1.0))
        tiny.edit(added).direct_logit_attribution(TEXT, " Paris")


class Times(nn.Module):
    """What a module gives, so many times, by way of a module of another name."""

    def __init__(self, inner: nn.Module, times: float):
        super().__init__()
        self.inner, self.times = inner, times

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x) * self.times if self.times != 1 else self.inner(x)


def test_what_was_found_before_is_looked_for_anew_where_the_model_has_changed():
    module = make_llama()
    model = mg.InterpretableModel(module)
    before = model.direct_logit_attribution(IDS, 7, by="neuron")
    own = module.layers[1].mlp
    module.layers[1].mlp = Times(own, 1.0)  # the projection goes by another name
    assert model.direct_logit_attribution(IDS, 7, by="neuron") == before
    module.layers[1].mlp = Times(own, 2.0)
    with pytest.raises(DecompositionError, match=r"layers\.1\.mlp"):
        model.direct_logit_attribution(IDS, 7, by="neuron")
    found = model.direct_logit_attribution(IDS, 7)
    assert total(found) == pytest.approx(found.attrs["model_logit"], abs=1e-4)
    module.layers[1].mlp = own
    assert model.direct_logit_attribution(IDS, 7, by="neuron") == before


# -- where there is no such sum --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "by", "said"),
    [
        ("rwkv7", "component", "not the sum"),  # a norm before the first sum
        ("talkie", "component", "not the sum"),  # the embedding comes to each layer again
        ("gemma3n", "component", "one stream"),
        ("qwen3_next", "head", "gate"),
        ("mamba", "head", "no layer has heads"),
        ("nanochat", "component", "logits"),
    ],
)
@pytest.mark.thin(3)
def test_a_model_that_is_no_such_sum_says_so(name, by, said):
    model = made(name)
    with pytest.raises(DecompositionError, match=said) as caught:
        model.direct_logit_attribution(IDS, 7, by=by)
    assert isinstance(caught.value, ValueError)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


WRONG = {
    "a token of several": (lambda m: m.direct_logit_attribution(TEXT, " Parisian"), TokenError),
    "no token": (lambda m: m.direct_logit_attribution(TEXT, 1.5), InputError),
    "no tokens": (lambda m: m.direct_logit_attribution(TEXT, []), InputError),
    "an id beyond": (lambda m: m.direct_logit_attribution(TEXT, 10**6), VocabularyError),
    "against an id beyond": (lambda m: m.direct_logit_attribution(TEXT, 7, 10**6), VocabularyError),
    "another way": (lambda m: m.direct_logit_attribution(TEXT, 7, by="heads"), UnknownNameError),
    "a position beyond": (
        lambda m: m.direct_logit_attribution(TEXT, 7, position=99),
        PositionError,
    ),
    "no position": (lambda m: m.direct_logit_attribution(TEXT, 7, position=None), InputError),
    "positions of positions": (
        lambda m: m.direct_logit_attribution(TEXT, 7, by="position", position="all"),
        InputError,
    ),
    "choices": (lambda m: m.direct_logit_attribution(TEXT, position="all"), InputError),
    "a layer beyond": (lambda m: m.direct_logit_attribution(TEXT, 7, layers=[9]), NoLayerError),
    "no layers": (lambda m: m.direct_logit_attribution(TEXT, 7, layers=[]), InputError),
    "two texts": (lambda m: m.direct_logit_attribution([TEXT, TEXT], 7), InputError),
    "no head": (
        lambda m: mg.InterpretableModel(m.module.model).direct_logit_attribution(IDS, 7),
        UnembeddingError,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_raises_on_the_users_line(tiny, name):
    call, error = WRONG[name]
    with pytest.raises(error) as caught:
        call(tiny)
    assert isinstance(caught.value, MLXGraphError)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


# -- every architecture ----------------------------------------------------------------------------

REFUSES = {
    "afm7", "dbrx", "deepseek_v41", "gemma3n", "iquestloopcoder", "kimi_k3", "nanochat", "rwkv7",
    "talkie",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", configs.installed(configs.KNOWN.split()))
def test_every_architecture_adds_up_or_says_that_it_does_not(name):
    model = mg.InterpretableModel(configs.build(name))
    if name in REFUSES:
        with pytest.raises(DecompositionError):
            model.direct_logit_attribution(IDS, 7)
        return
    taken_apart = 0
    for by in WAYS:
        try:
            found = model.direct_logit_attribution(IDS, 7, by=by)
        except DecompositionError:
            assert by != "component"
            continue
        taken_apart += 1
        assert total(found) == pytest.approx(found.attrs["logit"], abs=1e-4)
    assert taken_apart
