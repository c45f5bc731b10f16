"""Arrays as bytes: what a graph on disk is made of, besides its structure.

In: an `mx.array`, or the bytes of one.  Out: the other, bit for bit.
Importing this module tells `graph.file` what arrays are; the graph's own room knows no mlx.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import GraphFileError
from mlxgraph.graph.file.format import set_codec
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts.dtypes import dtype_named
from mlxgraph.mlx_facts.originals import ARRAY, zeros


class ArrayCodec:
    """`mx.array` and bytes; numpy arrays among the constants come back as `mx.array`."""

    def describe(self, array: Any) -> tuple[str, tuple[int, ...]]:
        """The dtype's name and the shape."""
        return dtype_name(array.dtype), tuple(array.shape)

    def to_bytes(self, array: Any) -> Any:
        """The elements in order; a lazy array is computed.

        Raises: GraphFileError for an array that stands for no value, as inside `mx.compile`.
        """
        if not isinstance(array, ARRAY):
            return np.ascontiguousarray(array).tobytes()
        if not array.size:
            return b""
        try:
            return memoryview(array.reshape(-1).view(mx.uint8))
        except (RuntimeError, ValueError) as error:
            raise GraphFileError(
                f"an array of shape {tuple(array.shape)} cannot be computed, and so not saved: "
                f"{error}\n  Compute it with mx.eval first, in the thread that made it, not inside"
                " mx.compile, mx.grad or mx.vmap."
            ) from error

    def from_bytes(self, data: bytes, dtype: str, shape: tuple[int, ...]) -> mx.array:
        """The array of this dtype and shape whose elements these are."""
        if not data:
            return zeros(shape, dtype_named(dtype))
        flat = ARRAY(np.frombuffer(data, np.uint8))
        return flat.view(dtype_named(dtype)).reshape(shape)


set_codec(ArrayCodec())
