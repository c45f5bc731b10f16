"""The models of the benchmarks: random mlx-lm Llamas with grouped queries."""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.models.llama import Model, ModelArgs


def llama(
    width: int,
    layers: int,
    vocabulary: int = 1000,
    heads: int = 8,
    key_value_heads: int = 4,
    tied: bool = True,
) -> Model:
    """One of them, its weights computed."""
    mx.random.seed(0)
    made = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=width,
            num_hidden_layers=layers,
            intermediate_size=3 * width,
            num_attention_heads=heads,
            num_key_value_heads=key_value_heads,
            rms_norm_eps=1e-5,
            vocab_size=vocabulary,
            tie_word_embeddings=tied,
        )
    )
    mx.eval(made.parameters())
    return made
