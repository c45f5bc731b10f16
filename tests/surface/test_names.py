"""`interventions={name: fn}`: every form of a name, every kind of module, several at once."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import UnknownSiteError
from tests.models import same

FORMS = {
    "model.layers.1": ["model.layers.1", "model.model.layers.1", "layers.1", "layers.1.output"],
    "model.layers.1.self_attn": [
        "layers.1.self_attn",
        "layers.1.attn",
        "model.layers.1.attn",
        "model.model.layers.1.self_attn",
    ],
    "model.layers.1.mlp.up_proj": ["layers.1.mlp.up_proj", "model.model.layers.1.mlp.up_proj"],
    "model.embed_tokens": ["model.embed_tokens", "model.model.embed_tokens"],
    "model.norm": ["model.norm", "model.model.norm"],
    "": ["__model_output__"],
}


def edited(model, tokens, interventions):
    with model.trace(tokens, interventions=interventions):
        return model.output.save()


@pytest.mark.parametrize("path", FORMS)
def test_every_form_of_a_name_is_the_same_edit(llama, tokens, path):
    plain = edited(llama, tokens, {})
    found = [edited(llama, tokens, {name: iv.scale(0.3)}) for name in FORMS[path]]
    with llama.trace(tokens):
        if path:
            llama[path].output *= 0.3
        else:
            llama.output *= 0.3
        expected = llama.output.save()
    assert all(same(one, expected, 1e-5) for one in found)
    if path != "model.norm":
        assert not same(plain, expected, 1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "layers.1", "layers.1.attn", "layers.1.mlp", "layers.1.self_attn.q_proj",
        "layers.1.self_attn.k_proj", "layers.1.self_attn.v_proj", "layers.1.self_attn.o_proj",
        "layers.1.mlp.gate_proj", "layers.1.mlp.down_proj", "layers.1.input_layernorm",
        "layers.1.post_attention_layernorm", "model.embed_tokens", "model.norm",
        "__model_output__",
    ],
)  # fmt: skip
def test_every_kind_of_module_can_be_edited(llama, tokens, name):
    plain = edited(llama, tokens, {})
    assert not same(edited(llama, tokens, {name: lambda x: x * 1.5 + 0.5}), plain, 1e-3)
    assert same(edited(llama, tokens, {name: lambda x: x * 1.0}), plain, 1e-5)


def test_several_at_once_are_one_after_the_other(llama, tokens):
    edits = {"layers.0.mlp": iv.scale(0.5), "layers.2": iv.add_vector(mx.ones((32,)))}
    edits["layers.1.attn"] = iv.zero_out
    with llama.trace(tokens):
        llama.layers[0].mlp.output *= 0.5
        llama.layers[1].attn.output = mx.zeros_like(llama.layers[1].attn.output)
        llama.layers[2].output += 1.0
        expected = llama.output.save()
    assert same(edited(llama, tokens, edits), expected, 1e-5)
    assert same(edited(llama, tokens, dict(reversed(edits.items()))), expected, 1e-5)


def test_the_dict_may_come_second(llama, tokens):
    with llama.trace(tokens, {"layers.1": iv.zero_out}):
        by_place = llama.output.save()
    assert same(by_place, edited(llama, tokens, {"layers.1": iv.zero_out}))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("layers.9", "model.layers.2"),
        ("layer.1", "model.layers.1"),
        ("layers.1.mpl", "model.layers.1.mlp"),
        ("model.layers.1.mlp.up", "model.layers.1.mlp.up_proj"),
    ],
)
def test_an_unknown_name_raises_with_close_matches(llama, tokens, name, meant):
    with pytest.raises(UnknownSiteError) as caught:
        edited(llama, tokens, {name: iv.zero_out})
    before, _, hint = str(caught.value).partition("Did you mean")
    assert repr(name) in before and repr(meant) in hint
    assert isinstance(caught.value, AttributeError) and isinstance(caught.value, KeyError)


def test_a_function_that_cannot_be_recorded_runs_as_it_is(llama, tokens):
    import numpy as np

    def through_numpy(x):
        return mx.array(np.tanh(np.array(x)))

    found = edited(llama, tokens, {"layers.1": through_numpy})
    assert same(found, edited(llama, tokens, {"layers.1": lambda x: mx.tanh(x)}), 1e-4)


def test_a_lambda_that_returns_an_array_replaces(llama, tokens):
    with llama.trace(tokens * 0 + 3) as trace:
        clean = trace.activations["layers.1.mlp"]
    found = edited(llama, tokens, {"layers.1.mlp": lambda x: clean})
    assert same(found, edited(llama, tokens, {"layers.1.mlp": iv.replace_with(clean)}), 1e-6)


@pytest.mark.parametrize("given", [{}, {"layer_attr": "h"}])
def test_other_containers_go_by_layers_too(given):

    from mlx_lm.models import gpt2

    mx.random.seed(0)
    args = dict(n_ctx=16, n_embd=32, n_head=4, n_layer=2, n_positions=16, vocab_size=50)
    module = gpt2.Model(
        gpt2.ModelArgs(model_type="gpt2", layer_norm_epsilon=1e-5, num_key_value_heads=4, **args)
    )
    model = mg.InterpretableModel(module, **given)
    tokens = mx.array([[1, 2, 3]])
    with model.trace(tokens):
        attention = model.layers[1].attn.output.save()
    assert attention.shape == (1, 3, 32) and len(model.layers) == 2
    plain = edited(model, tokens, {})
    for name in ("layers.1.mlp", "model.h.1.mlp", "model.model.h.1.mlp"):
        assert not same(edited(model, tokens, {name: iv.zero_out}), plain, 1e-4)
