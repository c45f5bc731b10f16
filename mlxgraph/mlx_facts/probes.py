"""Questions to an array that MLX has no function for: asked by evaluating it, and reading why not.

Two things keep an array from being evaluated.  It may hold nothing: it was a tracer, and the
trace is over (see `placeholders`).  Or a transformation (`mx.grad`, `mx.vmap`, `mx.compile`) is
following it right now.  The two have errors of their own, told apart by their words.

Asking costs: where nothing is in the way, MLX begins to compute the array.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.mlx_facts.originals import async_eval, export_to_dot

_NOTHING = "without a primitive"
_FOLLOWED = ("graph transformation", "function transformations")  # async_eval's words, and eval's


def says_holds_nothing(error: BaseException) -> bool:
    """Evaluating an array that holds nothing, or that comes of one, is a RuntimeError that says
    "[eval] Attempting to eval an array without a primitive"."""
    return isinstance(error, RuntimeError) and _NOTHING in str(error)


def says_followed(error: BaseException) -> bool:
    """Evaluating what a transformation follows is a ValueError: `eval` and `.item()` speak of
    "function transformations like compile or vmap", `async_eval` of "a graph transformation"."""
    return isinstance(error, ValueError) and any(words in str(error) for words in _FOLLOWED)


def begin(arrays: list[mx.array]) -> None:
    """`async_eval` begins to compute arrays and does not wait; what a transformation follows, whose
    ends are not known yet, it refuses to begin."""
    try:
        async_eval(arrays)
    except ValueError as error:
        if not says_followed(error):
            raise


def holds_nothing(array: mx.array) -> bool:
    """An array that holds nothing cannot be evaluated; one that is followed can, later.

    Raises: whatever else MLX has against evaluating it.
    """
    try:
        async_eval(array)
    except (RuntimeError, ValueError) as error:
        if says_holds_nothing(error):
            return True
        if not says_followed(error):
            raise
    return False


def is_followed(array: mx.array) -> bool:
    """`mx.async_eval` refuses what a transformation follows, be it `mx.grad`, whose tracers `eval`
    computes; an array that is made inside of one and depends on none of its inputs is not followed.
    """
    try:
        async_eval(array)
    except (RuntimeError, ValueError) as error:
        return says_followed(error)
    return False


def is_computed(array: mx.array) -> bool:
    """Whether some operation is to make an array; an input of a trace, and what has been computed,
    is the source of a graph of one box, and a changed input (`x[0] = 1`) is not."""
    drawn = StringIO()
    export_to_dot(drawn, array)
    return "shape=rectangle" in drawn.getvalue()


def is_drawn(array: mx.array) -> bool:
    """Whether an array that is not computed yet comes of a random draw: its graph names the
    operation that gives random bits."""
    drawn = StringIO()
    export_to_dot(drawn, array)
    return '"RandomBits"' in drawn.getvalue()


def known_range(array: mx.array) -> tuple[int, int] | None:
    """The smallest and the largest of whole numbers; None where there are none to be looked at.

    `memoryview` and numpy read an array where it lies, and compute a lazy one first.
    """
    if not array.size or not mx.issubdtype(array.dtype, mx.integer):
        return None
    try:
        async_eval(array)
        few = 0 < array.ndim <= 2 and array.size < 100
        numbers: Any = memoryview(array).tolist() if few else None  # type: ignore[arg-type]
    except (RuntimeError, ValueError):
        return None
    if few:
        rows = numbers if array.ndim == 2 else [numbers]
        return min(map(min, rows)), max(map(max, rows))
    read = np.asarray(array)
    return int(read.min()), int(read.max())
