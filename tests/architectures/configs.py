"""Tiny configurations of mlx-lm's architectures: two or three layers, sixty-four wide.

In: a model file's name.  Out: a model with random weights, always the same ones.
A model takes from `COMMON` the fields that its `ModelArgs` has; `overrides.OWN` holds what differs.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm import models

from tests.architectures.overrides import LAYERS, OWN, VOCABULARY

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "use_qkv_bias": False,
    "use_qk_norm": True,
    "sliding_window": 6,
    "sliding_window_pattern": 2,
    "partial_rotary_factor": 0.5,
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_topk": 2,
    # latent attention
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    # state space and linear attention
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "conv_kernel": 4,
    "use_conv_bias": True,
    "state_size": 16,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "layer_group_size": 2,
    "group_norm_size": 2,
    # scales
    "logits_scaling": 2.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "dim_model_base": 32,
    "scale_depth": 1.4,
    "scale_emb": 2.0,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": LAYERS,
    "n_positions": 256,
    "n_ctx": 256,
}

WRAPPED = (  # models of text and pictures: the text part's fields are in a dict of their own
    "gemma3", "gemma3n", "gemma4", "kimi_k25", "kimi_k3", "kimi_vl", "lfm2-vl", "llama4",
    "minimax_m3_vl", "mistral3", "muse_spark", "pixtral", "qwen2_vl", "qwen3_5", "qwen3_5_moe",
    "qwen3_vl", "qwen3_vl_moe",
)  # fmt: skip

KNOWN = """
    Klear afm7 afmoe apertus baichuan_m1 bailing_hybrid bailing_moe bailing_moe_linear
    bailing_moe_v3 cohere cohere2 dbrx deepseek deepseek_v2 deepseek_v3 deepseek_v32
    deepseek_v41 dots1 ernie4_5 ernie4_5_moe exaone exaone4 exaone_moe falcon_h1 gear
    gemma gemma2 gemma3 gemma3_text gemma3n gemma4 gemma4_text glm glm4 glm4_moe
    glm4_moe_lite glm_moe_dsa gpt2 gpt_bigcode gpt_neox gpt_oss gptj granite granitemoe
    granitemoehybrid helium hunyuan hunyuan_v1_dense internlm2 internlm3 iquestloopcoder
    jamba kimi_k25 kimi_k3 kimi_linear kimi_vl laguna lfm2 lfm2-vl lfm2_moe lille-130m
    llama llama4 llama4_text longcat_flash longcat_flash_ngram mamba mamba2 mellum mimo
    mimo_v2_flash minicpm minicpm3 minimax minimax_m3_vl ministral3 mistral3 mistral4
    mixtral muse_glimmer nanbeige nanochat nemotron nemotron-nas nemotron_h olmo2 olmo3
    olmo_hybrid olmoe openelm phi phi3 phimoe phixtral pixtral plamo plamo2
    plamo3 qwen qwen2 qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe qwen3_moe qwen3_next
    qwen3_vl qwen3_vl_moe recurrent_gemma rwkv7 seed_oss smollm3 solar_open spark2_5
    stablelm starcoder2 step3p5 talkie telechat3 youtu_llm
"""  # phi3small masks out tokens beyond 100,000: no tiny model

NOT_HERE = {  # name -> (the error, a part of its message): why it cannot run on a CPU
    "bitnet": (RuntimeError, "No Metal back-end"),
    "muse_spark": (RuntimeError, "No Metal back-end"),
    "olmo": (SystemExit, "1"),  # it needs the package ai2-olmo, which is not on every machine
    "prism_hadamard_qwen35": (ValueError, "Unsupported Hadamard pack"),  # only packed weights
}


def installed(names: Iterable[str]) -> list[str]:
    """Those of these architectures that the installed mlx-lm has."""
    files = {entry.name for entry in pkgutil.iter_modules(models.__path__)}
    return [name for name in names if name in files]


def config(name: str) -> dict[str, Any]:
    """The whole configuration of an architecture."""
    whole = {"model_type": name, **COMMON, **OWN.get(name, {})}
    return whole | {"text_config": whole} if name in WRAPPED else whole


def build(name: str) -> nn.Module:
    """A model of an architecture in float32, with weights that depend on nothing but its shape."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict(config(name)))
    model.update(tree_map(_weight, model.parameters()))
    mx.eval(model.parameters())
    return model.eval()


def _weight(weight: mx.array) -> mx.array:
    """In float32; what starts at zero would hide whatever is multiplied by it."""
    if not mx.issubdtype(weight.dtype, mx.floating):
        return weight
    if not mx.any(weight).item():
        return 0.1 * mx.random.normal(weight.shape)
    return weight.astype(mx.float32)
