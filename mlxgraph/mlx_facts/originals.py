"""MLX's own functions and types, taken when this module is imported.

While a block is open the names in `mlx.core` stand for functions that record.  Whatever the library
itself computes goes through what is kept here, and is never recorded.

The belief: MLX's functions are plain attributes of its modules, looked up anew at each call, so
that exchanging them reaches whoever writes `mx.mean(x)` and nobody who kept the function.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

ARRAY = mx.array  # while a block is open, `mx.array` is a stand-in for it

async_eval = mx.async_eval
broadcast_to = mx.broadcast_to
compile = mx.compile
custom_function = mx.custom_function
export_to_dot = mx.export_to_dot
full = mx.full
grad = mx.grad
normal = mx.random.normal
reshape = mx.reshape
split = mx.split
stop_gradient = mx.stop_gradient
value_and_grad = mx.value_and_grad
vmap = mx.vmap
zeros = mx.zeros
arange = mx.arange
zeros_like = mx.zeros_like


def found_array_type() -> Any:
    """What goes by the name of `mlx.core.array` now."""
    return mx.array


NAMESPACES: dict[str, dict[str, Any]] = {  # every name an operation may have, as it was
    "mx": dict(vars(mx)),
    "mx.linalg": dict(vars(mx.linalg)),
    "mx.fast": dict(vars(mx.fast)),
    "mx.fft": dict(vars(mx.fft)),
    "mx.random": dict(vars(mx.random)),
    "nn": {**vars(nn.layers.activations), **vars(nn)},
    "nn.losses": dict(vars(nn.losses)),
}
