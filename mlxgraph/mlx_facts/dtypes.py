"""Dtypes by name, and the dtype that a Python number takes beside an array."""

from __future__ import annotations

import mlx.core as mx

DTYPES = {name: value for name, value in vars(mx).items() if isinstance(value, mx.Dtype)}
_NAMES = {**{str(d).rpartition(".")[2]: d for d in DTYPES.values()}, **DTYPES}


def dtype_named(name: str) -> mx.Dtype:
    """A dtype's text is `mlx.core.` and the name that `mlx.core` has it under; but bool, which is
    `mx.bool_` and whose text says `bool`, goes by both.

    Raises: KeyError for a name that no dtype has.
    """
    return _NAMES[name]


def is_dtype(name: str) -> bool:
    """Whether a dtype has this name."""
    return name in _NAMES


def dtype_beside(number: mx.Dtype, partner: mx.Dtype) -> mx.Dtype:
    """A Python number gives way to the array it meets: a bool always, an int but to bool, a float
    to whatever is inexact; otherwise they meet at int32 and float32.

    Args: number: the dtype that the number has alone; partner: that of the array.
    """
    if number == mx.bool_:
        return partner
    if mx.issubdtype(number, mx.integer):
        return mx.int32 if partner == mx.bool_ else partner
    return partner if mx.issubdtype(partner, mx.inexact) else mx.float32


def whole_range(dtype: mx.Dtype) -> range | None:
    """The Python ints that MLX takes beside an array of whole numbers; it refuses others.  None
    for other dtypes: a float takes any, and a bool makes way for an int32."""
    if not mx.issubdtype(dtype, mx.integer):
        return None
    bits = 8 * dtype.size
    if mx.issubdtype(dtype, mx.unsignedinteger):
        return range(2**bits)
    return range(-(2 ** (bits - 1)), 2 ** (bits - 1))


def both_inexact(one: mx.Dtype, other: mx.Dtype) -> bool:
    """Whether two dtypes are both real floats, or both complex: they differ in precision alone."""
    return any(
        mx.issubdtype(one, kind) and mx.issubdtype(other, kind)
        for kind in (mx.floating, mx.complexfloating)
    )
