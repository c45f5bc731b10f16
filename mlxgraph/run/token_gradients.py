"""Inside `mx.grad` and its like: what a run must do differently there.

Token ids have no gradient.  MLX says so from deep inside an embedding, or gives zeros where a
model casts them; here the ids are cut off from differentiation, and a zero that depends on them
is added to the results, whose own backward pass raises what the user needs to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.errors import TokenGradientError
from mlxgraph.graph.nested import map_nested
from mlxgraph.mlx_facts.originals import stop_gradient, zeros
from mlxgraph.mlx_facts.probes import is_followed
from mlxgraph.run.call import Call


def differentiated_ids(call: Call) -> bool:
    """Whether token ids among the inputs are what a transformation (`mx.grad`, ...) follows."""
    for array in call.arrays:
        if mx.issubdtype(array.dtype, mx.integer) and is_followed(array):
            return True
    return False


def _is_ids(value: Any) -> bool:
    return isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.integer)


def cut_ids(call: Call) -> Call:
    """The call with its integer arrays out of reach of differentiation."""
    return call.with_arrays([stop_gradient(a) if _is_ids(a) else a for a in call.arrays])


def tied_to_ids(call: Call, results: Sequence[Any]) -> list[Any]:
    """Results plus a zero whose gradient with respect to token ids raises."""
    zero = sum((_zero(a) for a in call.arrays if _is_ids(a)), zeros(()))

    def tied(value: Any) -> Any:
        floating = isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
        return value + zero.astype(value.dtype) if floating else value  # type: ignore[union-attr]

    return [map_nested(value, tied) for value in results]


@mx.custom_function
def _zero(ids: mx.array) -> mx.array:
    return zeros((), mx.float32)


@_zero.vjp
def _refuse(primals: Any, cotangents: Any, outputs: Any) -> Any:
    raise TokenGradientError()
