"""Placeholders: arrays with a shape and a dtype that can never be evaluated.

What `mx.vmap` hands to the function it traces is such an array once the trace is over.  MLX
infers shapes through it and refuses to compute with it, which is what keeps anything that slips
past the recording from becoming a wrong number.
"""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx

from mlxgraph.mlx_facts.originals import vmap, zeros


@lru_cache(maxsize=4096)
def placeholder(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """The placeholder for a shape and a dtype."""
    seen: list[mx.array] = []

    def trace(x: mx.array) -> mx.array:
        seen.append(x)
        return x

    vmap(trace)(zeros((1, *shape), dtype))
    return seen[0]
