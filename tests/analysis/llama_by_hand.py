"""A llama's forward written out by hand, with a place for a step at every value."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


def score(logits: mx.array) -> mx.array:
    """What is kept of a run."""
    return logits[7] - logits[11]


def by_hand(
    module: Any, text: list[int], steps: dict[tuple[str, int], mx.array], held: int | None = None
) -> Any:
    """A llama's forward with steps added to its values.

    Args: held: a layer that passes no slopes on but those of the stream.
    Returns: score, values by name.
    """
    args, values = module.args, {}

    def at(name: str, layer: int, value: mx.array) -> mx.array:
        values[name, layer] = value
        return value + steps[name, layer] if (name, layer) in steps else value

    def added(name: str, layer: int, value: mx.array) -> mx.array:
        value = at(name, layer, value)
        return mx.stop_gradient(value) if layer == held else value

    def norm(x: mx.array, weight: mx.array) -> mx.array:
        return weight * x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + args.rms_norm_eps)

    def split(x: mx.array, heads: int) -> mx.array:
        return x.reshape(1, len(text), heads, -1).transpose(0, 2, 1, 3)

    def turned(x: mx.array) -> mx.array:
        half = x.shape[-1] // 2
        angles = mx.arange(len(text))[:, None] * 10000.0 ** (-mx.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        cos, sin = mx.cos(angles), mx.sin(angles)
        return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    h = module.model.embed_tokens.weight[mx.array(text)][None]
    hidden = mx.triu(mx.full((len(text), len(text)), -1e9), k=1)
    for k, layer in enumerate(module.layers):
        h = at("resid_pre", k, h)
        own, x = layer.self_attn, norm(h, layer.input_layernorm.weight)
        count, groups = own.n_heads, own.n_heads // own.n_kv_heads
        q = at("queries", k, turned(split(x @ own.q_proj.weight.T, count)))
        key = at("keys", k, turned(split(x @ own.k_proj.weight.T, own.n_kv_heads)))
        v = at("values", k, split(x @ own.v_proj.weight.T, own.n_kv_heads))
        key, v = mx.repeat(key, groups, axis=1), mx.repeat(v, groups, axis=1)
        s = at("scores", k, q @ key.swapaxes(-1, -2) * own.scale + hidden)
        p = at("pattern", k, mx.softmax(s, axis=-1))
        z = at("heads", k, p @ v).transpose(0, 2, 1, 3).reshape(1, len(text), -1)
        h = at("resid_mid", k, h + added("attn", k, z @ own.o_proj.weight.T))
        x = norm(h, layer.post_attention_layernorm.weight)
        gate = x @ layer.mlp.gate_proj.weight.T
        inner = at(
            "mlp.down_proj.input", k, gate * mx.sigmoid(gate) * (x @ layer.mlp.up_proj.weight.T)
        )
        h = at("output", k, h + added("mlp", k, inner @ layer.mlp.down_proj.weight.T))
    logits = norm(h, module.model.norm.weight) @ module.model.embed_tokens.weight.T
    return score(logits[0, -1]), values
