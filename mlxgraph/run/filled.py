"""Weights to try a model with: what is true of them is true of any others of their shapes.

A weight of zeros hides what it multiplies: positions that it would mix, a branch that it closes.
What is proved once and kept while weights change is proved with something in its place.

In: arrays.  Out: the same, those of nothing but zeros as random numbers; lazy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from mlxgraph.mlx_facts.originals import ARRAY, normal

SPREAD = 0.2


def filled(weights: Sequence[mx.array]) -> list[mx.array]:
    """Each weight, or noise where it is a float and all of it is zero."""
    return [_filled(weight, number) for number, weight in enumerate(weights)]


def _filled(weight: mx.array, number: int) -> mx.array:
    if not mx.issubdtype(weight.dtype, mx.floating) or not weight.size:
        return weight
    noise: ARRAY = normal(weight.shape, mx.float32, key=mx.random.key(number))
    if weight.ndim < 2:  # a gate or a bias: as much of each as is felt
        noise = 1 + SPREAD * noise
    else:
        noise = noise / math.sqrt(weight.shape[-1])
    return mx.where(mx.any(weight != 0), weight, noise.astype(weight.dtype))


def filled_now(weights: Sequence[mx.array]) -> list[mx.array]:
    """The same, where all of them are needed: what has something in it is not copied.

    Raises: what MLX says of arrays that a transformation follows.
    """
    floats = {
        k: mx.any(weight != 0)
        for k, weight in enumerate(weights)
        if mx.issubdtype(weight.dtype, mx.floating) and weight.size
    }
    mx.eval(floats)
    empty = {k for k, some in floats.items() if not some.item()}
    return [_filled(w, k) if k in empty else w for k, w in enumerate(weights)]
