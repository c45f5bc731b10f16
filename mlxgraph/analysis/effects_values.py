"""The numbers of a result: taken of what a caller has, and handed out so that they do not change.

In: arrays, lists, recorded values.  Out: arrays in float32.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.unembed import known_value
from mlxgraph.errors import InputError
from mlxgraph.errors.tracebacks import at_the_edge


class Fixed(mx.array):
    """The values of a result, which do not change: an array that takes no assignment."""

    @at_the_edge
    def __setitem__(self, index: Any, value: Any) -> None:
        raise InputError(
            "the values of a result do not change.\n"
            "  Take a copy, `values = mx.array(e.values)`, and make mg.Effects(values, e.axes) of"
            " it."
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        return mx.array, (np.array(self),)


class FixedOfDict(Fixed):
    """The values of a result that is a dict too: called, they are the dict's own."""

    def __call__(self) -> Any:
        return dict.values(self.owner)


def numbers_of(values: Any) -> mx.array:
    """Values as an array in float32.  Raises: InputError for what is no numbers."""
    if hasattr(type(values), "value"):  # a proxy, or what one saved
        values = known_value(values)
    if not isinstance(values, mx.array):
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise InputError(
                "the values are lists of different lengths.\n  Give an array."
            ) from error
        if values.dtype.kind not in "fiub":
            raise InputError(f"the values of a result are numbers, and these are {values.dtype}.")
        with np.errstate(over="ignore"):
            kept = values.astype(np.float32)
        if not np.array_equal(np.isinf(kept), np.isinf(values)):
            raise InputError(
                "a result keeps its values in float32, and some of these are too large for it.\n"
                "  Give them in another unit, or their logarithms."
            )
        return mx.array(kept)
    if values.dtype == mx.complex64:
        raise InputError("the values of a result are real numbers, and these are complex.")
    return values.astype(mx.float32)
