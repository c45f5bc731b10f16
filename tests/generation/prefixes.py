"""The naive reference of a generation: the whole text so far, traced anew for every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

import mlxgraph as mg

Edit = Callable[[Any, int, int], None]  # of a model, the prompt's length and the text's so far


def reference(
    model: mg.InterpretableModel, prompt: list[int], count: int, edit: Edit
) -> tuple[list[int], list[mx.array]]:
    """Greedy tokens, and the logits of the whole text at each step."""
    text, logits = list(prompt), []
    for _ in range(count):
        with model.trace(mx.array([text]), compile=False):
            edit(model, len(prompt), len(text))
            output = model.output.save()
        logits.append(output[0])
        text.append(int(mx.argmax(output[0, -1]).item()))
    return text[len(prompt) :], logits


def plain_tokens(model: mg.InterpretableModel, prompt: list[int], count: int, **options: Any):
    """mlx-lm's own tokens and log probabilities."""
    from mlx_lm.generate import generate_step

    found = []
    for token, logprobs in generate_step(
        mx.array(prompt), model.module, max_tokens=count, **options
    ):
        found.append((int(token), logprobs))
        if len(found) == count:
            break
    return [t for t, _ in found], [p for _, p in found]


def close(a: mx.array, b: mx.array, tolerance: float = 2e-4) -> bool:
    size = mx.abs(b).max().item() + 1e-6
    return a.shape == b.shape and mx.abs(a - b).max().item() <= tolerance * size


def stream(m: Any, layer: int = 1) -> Any:
    """The residual stream after a layer, whatever else the layer returns."""
    value = m.layers[layer].output
    while not isinstance(value, mx.array):
        value = value[0]
    return value
