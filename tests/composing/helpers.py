"""What several files here use: plain runs to compare with, and one kind of text batch."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

FRANCE = "The capital of France is"
ROME = "Rome is"
GERMANY = "The capital of Germany is the city of"  # three texts, three lengths


def plain(model: Any, x: Any) -> mx.array:
    """The wrapped module's own output on token ids, without any of the library."""
    if isinstance(x, str):
        x = mx.array([model.encode(x)])
    return model.module(x)


def apart(a: mx.array, b: mx.array) -> float:
    """The largest difference of two arrays of one shape."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(mx.abs(a.astype(mx.float32) - b.astype(mx.float32)).max())


def exact(a: mx.array, b: mx.array) -> bool:
    """Whether two arrays agree to the last bit."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(mx.array_equal(a, b))
