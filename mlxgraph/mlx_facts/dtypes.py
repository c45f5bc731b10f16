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
