"""Operands of interventions: what they take, whether it fits an activation, and its dtype."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InterventionError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.record.handle import describe, is_handle


def operand(value: Any, written: str) -> Any:
    """Lists and numpy values as MLX takes them; numbers, arrays and params as they are.

    Args: written: the intervention that takes it.  Raises: InterventionError for anything else.
    """
    if not isinstance(value, _OPERANDS) and not is_handle(value):
        raise InterventionError(
            f"iv.{written} takes a number, an array or a param, not {kind_of(value)}.\n"
            f"  Write iv.{written}(0.5), or give an array that broadcasts to the activation."
        )
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, np.ndarray)):
        return mx.array(value)
    return value


_OPERANDS = (int, float, complex, mx.array, np.ndarray, np.generic, list, tuple)


def kind_of(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def are_numbers(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def like(x: mx.array, value: mx.array) -> mx.array:
    """`value` in the activation's dtype.  Raises: InterventionError for what would lose a part."""
    if value.dtype == mx.complex64 != x.dtype:
        raise InterventionError(
            f"an intervention made complex numbers of {whose(x)}{x.shape}, of which it can hold the"
            " real part alone.\n  Give real numbers, or write mx.real(...) where you mean that"
            " part."
        )
    return value if value.dtype == x.dtype else value.astype(x.dtype)


def check_fits(x: mx.array, value: Any, verb: str, advice: str = "") -> None:
    """Raise unless `value` broadcasts to the activation's own shape."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return
    have = x.shape
    fits = len(shape) <= len(have) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(have), strict=False)
    )
    if not fits:
        raise ShapeError(f"{whose(x)}{have} cannot be {verb} {tuple(shape)}", str(here()), advice)


def whose(x: Any) -> str:
    """Which activation, for an error's text: a proxy knows its site."""
    return f"{describe(x)} of shape " if is_handle(x) else "an activation of "


def length_of(value: Any) -> int | None:
    """The size of the sequence axis, the last but one."""
    shape: tuple[int, ...] = getattr(value, "shape", ())
    return shape[-2] if len(shape) > 1 else None
