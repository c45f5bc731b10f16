"""`model.weight` and `model.unembed`: the arithmetic of a forward, by hand on floats."""

from __future__ import annotations

import traceback

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import llama
from mlx_lm.tuner.utils import linear_to_lora_layers

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    MLXGraphError,
    NoMatrixError,
    NoTokenizerError,
    SiteNameError,
    TokenError,
    UnembeddingError,
    UnknownSiteError,
    VocabularyError,
)
from mlxgraph.mlx_facts import random_state
from tests.models import Chain, identity_of, make_llama, same

TEXT = "The capital of France is"
LORA = {"rank": 4, "scale": 3.0, "dropout": 0.0}


def quantised(model: mg.InterpretableModel, **how) -> mg.InterpretableModel:
    nn.quantize(model.module, **(how or {"group_size": 64, "bits": 4}))
    return model


def adapted(model: mg.InterpretableModel, keys: set[str] | None = None, **how):
    """The model with adapters that do something, in two of its layers and wherever `keys` says."""
    linear_to_lora_layers(model.module, 2, {**LORA, **({"keys": keys} if keys else {})}, **how)
    mx.random.seed(11)
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape)
    model.module.eval()
    return model


HEADS = {"self_attn.q_proj", "mlp.down_proj", "model.embed_tokens"}
MODELS = {
    "as it is": mg.tiny,
    "4-bit": lambda: quantised(mg.tiny()),
    "8-bit": lambda: quantised(mg.tiny(), group_size=32, bits=8),
    "mxfp4": lambda: quantised(mg.tiny(), mode="mxfp4"),
    "LoRA": lambda: adapted(mg.tiny()),
    "LoRA on 4-bit": lambda: adapted(quantised(mg.tiny()), HEADS),
    "DoRA": lambda: adapted(mg.tiny(), use_dora=True),
    "DoRA on its embedding": lambda: adapted(mg.tiny(), HEADS, use_dora=True),
    "untied": lambda: mg.InterpretableModel(make_llama(False), mg.tiny().tokenizer),
    "untied and 4-bit": lambda: mg.InterpretableModel(wide(), mg.tiny().tokenizer),
}
NAMES = ["attn.q_proj", "attn.v_proj", "attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]


def wide() -> nn.Module:
    module = make_llama(False)
    nn.quantize(module, group_size=32, bits=4)
    return module


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


def tokens_of(model: mg.InterpretableModel) -> list[int]:
    return [3, 1, 4, 1, 5]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.thin(6)
def test_a_modules_output_is_its_input_times_its_matrix(model, name):
    full = f"layers.{len(model.layers) - 1}.{name}"
    with model.trace(tokens_of(model)):
        x, own = model[full].input.save(), model[full].output.save()
    matrix = model.weight(full)
    assert (matrix.dtype, matrix.shape) == (mx.float32, (own.shape[-1], x.shape[-1]))
    assert same(x @ matrix.T, own, 1e-4)
    assert not same(x @ mx.roll(matrix, 1, axis=0).T, own, 1e-1)


def test_an_embeddings_rows_are_what_it_gives(model):
    tokens = tokens_of(model)
    with model.trace(tokens):
        own = model.model.embed_tokens.output.astype(mx.float32).save()  # of mxfp4 it is bfloat16
    rows = model.weight("model.embed_tokens")
    assert same(rows[mx.array(tokens)][None], own, 1e-4)
    assert not same(rows[mx.array(tokens) + 1][None], own, 1e-2)


def test_a_state_times_a_tokens_direction_is_its_logit(model):
    with model.trace(tokens_of(model)):
        state, logits = model.model.norm.output.save(), model.output.save()
    for token in (0, 7, 41):
        direction = model.unembed(token)
        assert (direction.dtype, direction.shape) == (mx.float32, state.shape[-1:])
        assert same(state @ direction, logits[..., token], 1e-4), token
        assert not same(state @ direction, logits[..., token + 1], 1e-2)


def test_reading_weights_changes_nothing():
    model = adapted(quantised(mg.tiny()), HEADS)
    before, own, key = identity_of(model.module), model(TEXT), random_state.current()
    mx.eval(model.weight("layers.5.mlp.down_proj"), model.unembed(5))
    assert identity_of(model.module) == before
    assert not random_state.moved(key)
    assert same(model(TEXT), own)


def test_a_matrix_is_named_in_every_form(tiny):
    expected = tiny.module.layers[3].self_attn.o_proj.weight
    for name in (
        "model.layers.3.self_attn.o_proj",
        "model.model.layers.3.self_attn.o_proj",
        "layers.3.attn.o_proj",
        "layers.3.attn.o_proj.output",
        tiny.layers[3].attn.o_proj,
    ):
        assert mx.array_equal(tiny.weight(name), expected)
    assert not mx.array_equal(tiny.weight("layers.2.attn.o_proj"), expected)


def test_weights_are_live_and_edits_are_none(fresh):
    name = "layers.1.mlp.up_proj"
    module = fresh.module.layers[1].mlp.up_proj
    before = fresh.weight(name)
    edited = fresh.edit(mg.edit("layers.*", iv.scale(0.5)))
    assert mx.array_equal(edited.weight(name), before)
    module.weight = 2 * module.weight
    assert mx.array_equal(edited.weight(name), 2 * before)
    assert same(edited.unembed(3), fresh.module.lm_head.weight[3])


def test_an_added_module_has_a_matrix_too(fresh):
    fresh.sae = nn.Linear(8, 4)
    assert mx.array_equal(fresh.weight("sae"), fresh.sae.module.weight)


def test_in_a_block_weights_are_plain_arrays(tiny):
    with tiny.trace(TEXT):
        plain = tiny.output[0, -1].save()
    with tiny.trace(TEXT):
        tiny.layers[3].output[:, -1] += 8.0 * tiny.unembed(" Rome")
        moved = tiny.output[0, -1].save()
        matrix = tiny.weight("layers.3.mlp.down_proj")
        own = (tiny.layers[3].mlp.down_proj.input @ matrix.T).save()
        made = tiny.layers[3].mlp.output.save()
    rome = tiny.single_token(" Rome")
    assert moved[rome].item() > plain[rome].item() + 1
    assert same(own, made, 1e-4)


def test_a_token_by_its_text_or_its_id(tiny):
    paris = tiny.single_token(" Paris")
    for token in (" Paris", paris, mx.array(paris)):
        assert mx.array_equal(tiny.unembed(token), tiny.module.model.embed_tokens.weight[paris])


def test_softcapped_and_scaled_logits_are_of_the_same_directions():
    from tests.architectures import configs

    for name in ("gemma2", "cohere", "granite"):
        model = mg.InterpretableModel(configs.build(name))
        with model.trace([1, 2, 3]):
            state, logits = model.model.norm.output[0, -1].save(), model.output[0, -1].save()
        own = mx.array([(state @ model.unembed(token)).item() for token in range(20)])
        assert not same(own, logits[:20], 1e-3), f"{name} scales or caps"
        assert mx.argsort(own).tolist() == mx.argsort(logits[:20]).tolist()


@pytest.mark.parametrize("tied", [True, False])
def test_a_toy_as_wide_as_its_vocabulary_has_a_head(tied):
    """Every linear layer of it gives as many numbers as there are tokens."""
    args = llama.ModelArgs(
        model_type="llama", hidden_size=32, num_hidden_layers=2, intermediate_size=32,
        num_attention_heads=2, rms_norm_eps=1e-5, vocab_size=32, tie_word_embeddings=tied,
    )  # fmt: skip
    mx.random.seed(2)
    model = mg.InterpretableModel(llama.Model(args))
    with model.trace([1, 2, 3]):
        state, logits = model.model.norm.output.save(), model.output.save()
    assert same(state @ model.unembed(9), logits[..., 9], 1e-4)
    assert not same(state @ model.unembed(9), logits[..., 8], 1e-2)


# -- what is refused -----------------------------------------------------------------------------


class Bare(nn.Module):
    """A language model whose head is a bare array, and no module's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layers = [nn.Linear(8, 8)]
        self.head = mx.random.normal((20, 8), key=mx.random.key(5))

    def __call__(self, x: mx.array) -> mx.array:
        h = self.embed(x)
        for layer in self.layers:
            h = h + layer(h)
        return h @ self.head.T


REFUSED = {
    "a block": (lambda m: m.weight("layers.3"), NoMatrixError, "mlp.up_proj"),
    "a norm": (lambda m: m.weight("model.norm"), NoMatrixError, "model.parameters"),
    "the model": (lambda m: m.weight(""), NoMatrixError, "model.embed_tokens"),
    "several": (lambda m: m.weight("layers.*.mlp.up_proj"), SiteNameError, "6 names"),
    "no module": (lambda m: m.weight("layers.3.mlp.upproj"), UnknownSiteError, "up_proj"),
    "a parameter": (lambda m: m.weight("layers.3.mlp.up_proj.weight"), UnknownSiteError, "up_proj"),
    "a number": (lambda m: m.weight(5), SiteNameError, "handle"),
    "an id": (lambda m: m.unembed(5000), VocabularyError, "1014"),
    "an id below": (lambda m: m.unembed(-1), VocabularyError, "1014"),
    "several tokens": (lambda m: m.unembed(" Parisian"), TokenError, "4 tokens"),
    "no token": (lambda m: m.unembed(None), MLXGraphError, "token id"),
    "text": (lambda m: mg.InterpretableModel(m.module).unembed(" Paris"), NoTokenizerError, "ids"),
    "no head": (
        lambda m: mg.InterpretableModel(m.module.model).unembed(3),
        UnembeddingError,
        "whole language model",
    ),
    "a bare head": (lambda m: mg.InterpretableModel(Bare()).unembed(3), UnembeddingError, "weight"),
    "no layers": (
        lambda m: mg.InterpretableModel(nn.Embedding(5, 5)).unembed(3),
        MLXGraphError,
        "layers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_on_the_users_line(tiny, name):
    call, kind, said = REFUSED[name]
    with pytest.raises(kind, match=said) as caught:
        call(tiny)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


def test_a_chain_of_linear_layers_has_matrices_and_no_head():
    model = mg.InterpretableModel(Chain())
    assert mx.array_equal(model.weight("layers.1"), model.module.layers[1].weight)
