"""MLX's own functions and types, taken when this module is imported.

While a block is open the names in `mlx.core` stand for functions that record.  Whatever the library
itself computes goes through what is kept here, and is never recorded.
"""

from __future__ import annotations

import mlx.core as mx

ARRAY = mx.array  # while a block is open, `mx.array` is a stand-in for it
compile = mx.compile
value_and_grad = mx.value_and_grad
vmap = mx.vmap
zeros = mx.zeros
