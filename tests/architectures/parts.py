"""What single architectures do differently: names of parts, what they cannot do, and why."""

from __future__ import annotations

_USUAL = ("self_attn", "mlp")
_OTHERS: dict[tuple[str | None, str | None], tuple[str, ...]] = {
    ("attention", "feed_forward"): ("lille-130m", "internlm2"),
    ("attention", "mlp"): (
        "bailing_hybrid", "bailing_moe", "bailing_moe_linear", "bailing_moe_v3", "gpt_neox",
    ),
    ("attn", "ffn"): ("openelm", "rwkv7"),
    ("attn", "mlp"): ("exaone", "gpt2", "gpt_bigcode", "gptj", "nanochat", "qwen", "talkie"),
    ("mixer", "mlp"): ("plamo2", "plamo3"),
    ("mixer", "moe"): ("phixtral",),
    ("mixer", None): ("mamba", "mamba2", "nemotron_h"),
    ("self_attn", "block_sparse_moe"): (
        "granitemoe", "granitemoehybrid", "minimax", "minimax_m3_vl", "mixtral", "phimoe",
    ),
    ("self_attn", "feed_forward"): (
        "falcon_h1", "jamba", "lfm2", "lfm2-vl", "lfm2_moe", "llama4", "llama4_text",
    ),
    ("temporal_block", "mlp_block"): ("recurrent_gemma",),
    (None, "ffn"): ("dbrx",),  # the attention is in norm_attn_norm
    (None, "mlp"): ("longcat_flash", "longcat_flash_ngram"),  # two attentions, in a list
}  # fmt: skip
_PARTS = {name: called for called, names in _OTHERS.items() for name in names}

# Blocks of a hybrid whose token mixer is no attention, by number.
_MIXERS: dict[str, tuple[str | None, str | None, str | None]] = {
    "granitemoehybrid": (None, "self_attn", None),
    "jamba": (None, "self_attn", None),
    "lfm2": (None, "self_attn", None),
    "lfm2-vl": (None, "self_attn", None),
    "lfm2_moe": (None, "self_attn", None),
    "nemotron-nas": ("self_attn", None, "self_attn"),
    "olmo_hybrid": ("linear_attn", "self_attn", "linear_attn"),
    "qwen3_5": ("linear_attn", "self_attn", "linear_attn"),
    "qwen3_5_moe": ("linear_attn", "self_attn", "linear_attn"),
    "qwen3_next": ("linear_attn", "self_attn", "linear_attn"),
}


def of(name: str, block: int) -> tuple[str | None, str | None]:
    """What a block calls its attention (or what stands for it) and its feed-forward part."""
    attention, feed_forward = _PARTS.get(name, _USUAL)
    if name in _MIXERS:
        attention = _MIXERS[name][block]
    return attention, feed_forward


# The number of layers in the container, where mlx-lm's `layers` joins two lists.
BLOCKS = {"afm7": 2}

DIFFERS = "a padded row gives other numbers than its single run"

# Architectures that cannot hide padding: rows of several lengths are padded on the right.
TURNED = {
    "afm7": "its last layers rotate queries by the cache's length, padding included",
    "baichuan_m1": DIFFERS,
    "bailing_moe_linear": DIFFERS,
    "deepseek_v41": "its cache is its own kind",
    "gemma2": "its mask's batch axis meets the axis of key-value heads",
    "gemma3n": DIFFERS,
    "gpt_bigcode": "its learned positions take one offset for all rows",
    "jamba": DIFFERS,
    "llama4": "its chunked cache has no batch form",
    "mamba": "its state space layers take no mask",
    "olmo_hybrid": DIFFERS,
    "recurrent_gemma": DIFFERS,
    "rwkv7": "its recurrent layers take no mask",
}

# Architectures whose layers pass on something else than one residual stream (batch, length, width).
NO_LENS = {
    "deepseek_v41": "several streams, stacked",
    "gemma3n": "several streams, stacked",
}

# Architectures whose layers pass on more than the stream: a state alone does not give the logits.
CARRIED = {"kimi_k3": "its layers return a tuple whose other parts go into the logits"}

# Architectures that look at values in their forward: nothing of theirs can be compiled.
NOT_COMPILED = {"dbrx": "its experts are chosen with `.tolist()`"}

# Architectures that run their layers' parts by hand, so that no layer is ever called.
NO_CALLS = {"iquestloopcoder": "two loops over the parts of its layers"}

# Where the part of the usual name only holds the one that is called.
HOLDS = {("exaone", "attn"): "attention"}
