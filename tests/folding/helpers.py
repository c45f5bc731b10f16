"""Models to fold edits into, and the arithmetic by hand."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import mlxgraph as mg
from tests.architectures import configs
from tests.models import same

TEXT = "The capital of France is"
TOKENS = mx.array([[7, 21, 3, 88, 40, 5, 63, 12]])
UNUSED = mx.array([[40, 2, 61, 9, 17]])  # neither these nor their number are what a fold tries


def built(name: str) -> mg.InterpretableModel:
    """A random model of one of mlx-lm's architectures, 64 wide."""
    return mg.InterpretableModel(configs.build(name))


def quantised(model: mg.InterpretableModel, **how: Any) -> mg.InterpretableModel:
    """A model's modules in a few bits, as they are now."""
    fits = lambda _, m: hasattr(m, "to_quantized") and m.weight.shape[-1] % 32 == 0  # noqa: E731
    nn.quantize(model.module, **{"group_size": 32, "bits": 4, **how}, class_predicate=fits)
    return mg.InterpretableModel(model.module, model.tokenizer)


def direction(width: int, seed: int = 1) -> mx.array:
    return mx.random.normal((width,), key=mx.random.key(seed))


def first(value: Any) -> mx.array:
    while not isinstance(value, mx.array):
        value = value[0]
    return value


def apart(a: mx.array, b: mx.array) -> float:
    """The largest difference, in units of the larger of the largest values."""
    size = max(mx.abs(a).max().item(), mx.abs(b).max().item())
    return (mx.abs(a.astype(mx.float32) - b.astype(mx.float32)).max() / size).item()


def without(matrix: mx.array, vector: mx.array) -> mx.array:
    """`W - v (v.T W)` for a matrix (..., out, in) and one direction, in float64 by numpy."""
    rows, v = np.array(matrix).astype(np.float64), np.array(vector).astype(np.float64)
    v /= np.linalg.norm(v)
    return mx.array((rows - v[:, None] * (v @ rows)[..., None, :]).astype(np.float32))


def weights_of(model: mg.InterpretableModel) -> dict[str, mx.array]:
    """Copies of all parameters, on their own data."""
    found = {name: mx.array(value) for name, value in model.parameters().items()}
    mx.eval(found)
    return found


def equal(one: dict[str, mx.array], other: dict[str, mx.array]) -> bool:
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
