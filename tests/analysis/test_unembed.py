"""Token predictions: what the model's own last steps make of a state."""

from __future__ import annotations

import dataclasses
import importlib

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import mlxgraph as mg
from mlxgraph.analysis.unembed import final_norm, token_scores
from mlxgraph.errors import InputError, ShapeError, UnembeddingError
from tests.models import WIDTH, make_llama, same

TOKENS = mx.array([[1, 2, 3, 4, 5]])
SIZES = dict(
    hidden_size=64, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=80, head_dim=16, rms_norm_eps=1e-5, layer_norm_epsilon=1e-5,
    layer_norm_eps=1e-5, n_ctx=64, n_embd=64, n_head=4, n_layer=2, n_positions=64,
    num_positions=64, max_position_embeddings=64, rotary_emb_base=10000, rotary_pct=1.0,
    logits_scaling=8.0, attention_multiplier=0.25, embedding_multiplier=1.0,
    residual_multiplier=0.3, attention_bias=False, mlp_bias=False, rope_theta=10000.0,
    query_pre_attn_scalar=16, final_logit_softcapping=3.0, attn_logit_softcapping=50.0,
    logit_scale=0.1, state_size=8, conv_kernel=4, use_bias=True, use_conv_bias=True,
    time_step_rank=4, num_local_experts=4, num_experts_per_tok=2, partial_rotary_factor=0.5,
)  # fmt: skip


def architecture(name: str) -> nn.Module:
    """A small random model of one of mlx-lm's architectures."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    fields = {field.name for field in dataclasses.fields(module.ModelArgs)}
    mx.random.seed(0)
    sizes = {field: size for field, size in SIZES.items() if field in fields}
    return module.Model(module.ModelArgs(model_type=name, **sizes))


def last_state_and_logits(model):
    with model.trace(TOKENS):
        state = model.layers[-1].output[0].save()
        logits = model.output[0].save()
    return state, logits


# softcapped, scaled, divided, untied, other names for the norm and the head, experts, no attention
@pytest.mark.parametrize(
    ("name", "layers", "norm"),
    [
        ("gemma2", "layers", "model.norm"),
        ("cohere", "layers", "model.norm"),
        ("granite", "layers", "model.norm"),
        ("gpt2", "h", "model.ln_f"),
        ("gpt_neox", "h", "model.final_layer_norm"),
        ("phi", "layers", "model.final_layernorm"),
        ("mixtral", "layers", "model.norm"),
        ("mamba", "layers", "backbone.norm_f"),
    ],
)
def test_the_last_layers_states_give_the_models_own_logits(name, layers, norm):
    model = mg.InterpretableModel(architecture(name), layer_attr=layers)
    state, logits = last_state_and_logits(model)
    assert same(token_scores(model, state), logits, 1e-6)
    assert final_norm(model) == norm
    assert not same(token_scores(model, state * mx.arange(64)), logits, 1e-2), "states must matter"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("quantised", [False, True])
def test_tied_untied_and_quantised_heads(tied, dtype, quantised):
    module = make_llama(tied)
    module.set_dtype(dtype)
    if quantised:
        fits = lambda path, m: hasattr(m, "to_quantized") and m.weight.shape[-1] % 32 == 0  # noqa: E731
        nn.quantize(module, group_size=32, bits=4, class_predicate=fits)
        assert any("Quantized" in type(m).__name__ for _, m in module.named_modules())
    model = mg.InterpretableModel(module)
    state, logits = last_state_and_logits(model)
    tolerance = 1e-6 if dtype == mx.float32 else 2e-2
    assert same(token_scores(model, state), logits, tolerance)
    best = model.get_token_predictions(state[-1], top_k=1, return_scores=True)
    assert best[0][1] == pytest.approx(mx.max(logits[-1]).item(), rel=tolerance)


def test_one_state_gives_a_list_and_a_batch_a_list_of_lists(llama):
    state, logits = last_state_and_logits(llama)
    one = llama.get_token_predictions(state[-1], top_k=5)
    assert one == mx.argsort(-logits[-1])[:5].tolist()
    batch = llama.get_token_predictions(state, top_k=5)
    assert len(batch) == 5 and batch[-1] == one
    pairs = llama.get_token_predictions(state[-1], top_k=5, return_scores=True)
    assert [token for token, _ in pairs] == one
    assert [score for _, score in pairs] == sorted((s for _, s in pairs), reverse=True)
    assert all(isinstance(t, int) and isinstance(s, float) for t, s in pairs)
    assert len(llama.get_token_predictions(state[-1])) == 10


def test_without_the_norm_a_normed_state_gives_the_logits(llama):
    with llama.trace(TOKENS):
        normed = llama.model.norm.output[0].save()
        logits = llama.output[0].save()
    assert same(token_scores(llama, normed, apply_norm=False), logits, 1e-6)
    assert not same(token_scores(llama, normed * 3), 3 * logits, 1e-2)
    assert same(token_scores(llama, normed * 3, apply_norm=False), 3 * logits, 1e-4)
    plain = llama.get_token_predictions(normed[-1], 3, apply_norm=False)
    assert plain == mx.argsort(-logits[-1])[:3].tolist()


def test_it_works_on_a_proxy_inside_the_block(llama):
    with llama.trace(TOKENS) as t:
        inside = llama.get_token_predictions(llama.layers[1].output[0, -1], top_k=3)
    assert inside == llama.get_token_predictions(t.activations["layers.1"][0, -1], top_k=3)


def test_nothing_of_the_models_layers_is_changed_or_saved_behind(fresh):
    before = dict(tree_flatten(fresh.module.parameters()))
    fresh.get_token_predictions(mx.ones((WIDTH,)))
    after = dict(tree_flatten(fresh.module.parameters()))
    assert after.keys() == before.keys() and all(after[k] is before[k] for k in before)


def test_wrong_shapes_and_headless_models_say_so(tied, chain):
    with pytest.raises(ShapeError, match="residual stream"):
        tied.get_token_predictions(mx.ones((WIDTH + 1,)))
    with pytest.raises(ShapeError, match="Choose a position"):
        tied.get_token_predictions(mx.ones((1, 2, WIDTH)))
    with pytest.raises(ValueError, match="top_k"):
        tied.get_token_predictions(mx.ones((WIDTH,)), top_k=0)
    headless = mg.InterpretableModel(tied.module.model)
    with pytest.raises(UnembeddingError, match="no head"):
        headless.get_token_predictions(mx.ones((WIDTH,)))


def test_states_that_are_no_numbers_or_none_predict_nothing(tied):
    states = mx.ones((3, WIDTH))
    odd = mx.where(mx.arange(3)[:, None] == 1, mx.nan, states)
    with pytest.raises(InputError, match="rows 1 hold what is no number"):
        tied.get_token_predictions(odd)
    with pytest.raises(InputError, match="this state"):
        tied.get_token_predictions(odd[1])
    with pytest.raises(ShapeError, match="are none"):
        tied.get_token_predictions(states[:0])
    assert len(tied.get_token_predictions(states, top_k=2)) == 3  # positive control


def test_top_k_beyond_the_vocabulary_is_all_of_it(tied):
    assert sorted(tied.get_token_predictions(mx.ones((WIDTH,)), top_k=1000)) == list(range(50))
