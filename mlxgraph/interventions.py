"""Ready-made interventions: plain functions of one array.

In: an activation, an array or a proxy.  Out: the edited one, of the same shape and dtype.
The same function works on arrays, in a block, in `interventions={...}` and in `mg.edit`; numbers
go through arithmetic, so that another number is the same graph.
Never: looks at a model, or keeps state between calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import (
    AlignError,
    InterventionError,
    ShapeError,
    UnknownSiteError,
    close_matches,
)
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge, with_edges
from mlxgraph.graph import named
from mlxgraph.graph.named import Named
from mlxgraph.record.apply import normal_like
from mlxgraph.record.handle import describe, is_handle

__all__ = [
    "InterventionComposer",
    "InterventionFn",
    "add_vector",
    "clamp",
    "compose",
    "noise",
    "replace_with",
    "scale",
    "zero_out",
]
InterventionFn = Callable[[mx.array], mx.array]
ALIGNMENTS = ("strict", "start", "end")


def zero_out(x: mx.array) -> mx.array:
    """The activation with every entry zero.

    Example:
        >>> with model.trace("The capital of France is", interventions={"layers.4": iv.zero_out}):
        ...     logits = model.output.save()
    """
    return mx.zeros_like(x)


@at_the_edge
def scale(factor: float | mx.array) -> InterventionFn:
    """Multiply by a number, or by an array that broadcasts to the activation.

    Raises (when applied): ShapeError where an array does not fit.
    """
    factor = _operand(factor, "scale")

    def scaled(x: mx.array) -> mx.array:
        _check_fits(x, factor, "multiplied by an array of shape")
        return _like(x, x * factor)

    return Named("scale", (factor,), scaled)


@at_the_edge
def add_vector(vector: mx.array) -> InterventionFn:
    """Add a steering vector.

    Args: vector: anything that broadcasts to the activation, such as (width,) or
        (batch, length, width).
    Raises (when applied): ShapeError, with both shapes.
    Source: Turner et al. 2023, "Activation Addition", arXiv:2308.10248.
    """
    vector = _operand(vector, "add_vector")

    def steered(x: mx.array) -> mx.array:
        _check_fits(x, vector, "steered with a vector of shape")
        return _like(x, x + vector)

    return Named("add_vector", (vector,), steered)


@at_the_edge
def replace_with(value: mx.array | float, align: str = "strict") -> InterventionFn:
    """Put a fixed value in the activation's place.

    Args:
        value: a number, or an array that broadcasts to the activation.
        align: what another length along the sequence axis (the last but one) means.
            `"strict"` raises; `"start"` replaces the positions that both have, counted from
            the first; `"end"` counts from the last.  The other positions stay as they are.
    Raises: AlignError (a ValueError) for an unknown `align`; when applied, ShapeError.
    """
    value = _operand(value, "replace_with")
    if align not in ALIGNMENTS:
        raise AlignError(align, ALIGNMENTS)

    def replaced(x: mx.array) -> mx.array:
        if align != "strict" and _length(value) not in (None, 1, _length(x)):
            return _overlap(x, value, align)
        _check_fits(
            x, value, "replaced with a value of shape",
            "For another length, write replace_with(value, align='start') or align='end'.",
        )  # fmt: skip
        if getattr(value, "shape", None) == x.shape:
            return _like(x, value)
        return _like(x, mx.zeros_like(x) + value)

    return Named("replace_with", (value, align), replaced)


@at_the_edge
def clamp(min_val: float | None = None, max_val: float | None = None) -> InterventionFn:
    """Limit values to a range; either side may be left open.

    Raises: InterventionError (a ValueError) where both sides are open, or the range is empty.
    """
    if min_val is None and max_val is None:
        raise InterventionError(
            "clamp needs a limit: both are None.\n  Write clamp(-1.0, 1.0) or clamp(max_val=1.0)."
        )
    if _are_numbers(min_val, max_val) and min_val > max_val:  # type: ignore[operator]
        raise InterventionError(
            f"clamp from {min_val} to {max_val} leaves nothing.\n"
            f"  Write clamp({max_val}, {min_val})."
        )
    low = None if min_val is None else _operand(min_val, "clamp")
    high = None if max_val is None else _operand(max_val, "clamp")

    def clamped(x: mx.array) -> mx.array:
        edited = x
        if low is not None:
            _check_fits(x, low, "clamped to limits of shape")
            edited = mx.maximum(edited, low)
        if high is not None:
            _check_fits(x, high, "clamped to limits of shape")
            edited = mx.minimum(edited, high)
        return _like(x, edited)

    return Named("clamp", (low, high), clamped)


@at_the_edge
def noise(std: float = 0.1) -> InterventionFn:
    """Add Gaussian noise, drawn anew on every run; it follows `mx.random.seed`.

    Args: std: the standard deviation, in units of the activation.
    Raises: InterventionError (a ValueError) for a negative number.
    """
    if _are_numbers(std) and std < 0:
        raise InterventionError(f"a standard deviation is not negative, and {std} is.")
    std = _operand(std, "noise")

    def noisy(x: mx.array) -> mx.array:
        return _like(x, x + normal_like(x) * std)

    return Named("noise", (std,), noisy)


@with_edges
class InterventionComposer:
    """Collects interventions, first added first applied.  Made by `compose()`."""

    def __init__(self, *functions: InterventionFn):
        self._functions: list[InterventionFn] = []
        for fn in functions:
            self.add(fn)

    def add(self, fn: InterventionFn) -> InterventionComposer:
        """Append an intervention.  Returns: self.  Raises: InterventionError if not callable."""
        if not callable(fn):
            raise InterventionError(
                f"{fn!r} is no function of an activation.\n  Write .add(iv.scale(0.5))."
            )
        self._functions.append(fn)
        return self

    def build(self) -> InterventionFn:
        """One function that applies what has been added so far, in order."""
        functions = tuple(self._functions)

        def composed(x: mx.array) -> mx.array:
            for fn in functions:
                x = fn(x)
            return x

        return Named("compose", functions, composed)

    def __len__(self) -> int:
        return len(self._functions)


def compose(*functions: InterventionFn) -> InterventionComposer:
    """Begin a composition: `compose().add(scale(0.8)).add(noise(0.1)).build()`."""
    return InterventionComposer(*functions)


_ELSEWHERE = {
    **dict.fromkeys(("ablate", "zero", "zeros", "zero_ablate", "knockout"), "zero_out"),
    **dict.fromkeys(("add", "steer", "steering"), "add_vector"),
    **dict.fromkeys(("multiply", "mul"), "scale"),
    **dict.fromkeys(("patch", "set", "set_to", "replace"), "replace_with"),
    "clip": "clamp",
}


@at_the_edge
def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    known = __dir__()
    near = [_ELSEWHERE[name]] if name in _ELSEWHERE else close_matches(name, known)
    advice = f"There is: {', '.join(known)}; any function of one array is an intervention."
    raise UnknownSiteError(
        name, (), "mlxgraph.interventions", kind="intervention", advice=advice, near=near
    )


def __dir__() -> list[str]:
    """What a shell completes after `iv.`: the interventions alone."""
    return [name for name in __all__ if not name.startswith("Intervention")]


# -- shapes and dtypes ------------------------------------------------------------------------


def _operand(value: Any, written: str) -> Any:
    """Lists and numpy values as MLX takes them; numbers, arrays and params as they are.

    Args: written: the intervention that takes it.  Raises: InterventionError for anything else.
    """
    if not isinstance(value, _OPERANDS) and not is_handle(value):
        raise InterventionError(
            f"iv.{written} takes a number, an array or a param, not {_kind_of(value)}.\n"
            f"  Write iv.{written}(0.5), or give an array that broadcasts to the activation."
        )
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, np.ndarray)):
        return mx.array(value)
    return value


_OPERANDS = (int, float, complex, mx.array, np.ndarray, np.generic, list, tuple)


def _kind_of(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _like(x: mx.array, value: mx.array) -> mx.array:
    """`value` in the activation's dtype."""
    return value if value.dtype == x.dtype else value.astype(x.dtype)


def _check_fits(x: mx.array, value: Any, verb: str, advice: str = "") -> None:
    """Raise unless `value` broadcasts to the activation's own shape."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return
    have = x.shape
    fits = len(shape) <= len(have) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(have), strict=False)
    )
    if not fits:
        raise ShapeError(f"{_whose(x)}{have} cannot be {verb} {tuple(shape)}", str(here()), advice)


def _whose(x: Any) -> str:
    """Which activation, for an error's text: a proxy knows its site."""
    return f"{describe(x)} of shape " if is_handle(x) else "an activation of "


def _length(value: Any) -> int | None:
    """The size of the sequence axis, the last but one."""
    shape: tuple[int, ...] = getattr(value, "shape", ())
    return shape[-2] if len(shape) > 1 else None


def _overlap(x: mx.array, value: Any, align: str) -> mx.array:
    """`x` with the positions that both have taken from `value`."""
    have, given = _length(x), _length(value)
    if have is None or given is None:
        raise ShapeError(
            f"{_whose(x)}{x.shape} has no sequence axis to align {value.shape} along", str(here())
        )
    both = min(have, given)
    at = slice(0, both) if align == "start" else slice(have - both, have)
    source = slice(0, both) if align == "start" else slice(given - both, given)
    part = value[..., source, :]
    edited = mx.array(x)
    _check_fits(edited[..., at, :], part, "replaced with a value of shape")
    edited[..., at, :] = _like(x, part)
    return edited


def _composed(*functions: InterventionFn) -> InterventionFn:
    return compose(*functions).build()


for _maker in (scale, add_vector, replace_with, clamp, noise):
    named.register(_maker.__name__, _maker)
named.register("compose", _composed)
for _of, _example in (
    (scale, "iv.scale(0.5)"),
    (add_vector, "iv.add_vector(v)"),
    (replace_with, "iv.replace_with(value)"),
    (clamp, "iv.clamp(-1.0, 1.0)"),
    (noise, "iv.noise(0.1)"),
    (compose, "iv.compose().add(iv.scale(0.5)).build()"),
):
    named.register_example(_of, _example)
named.register_plain("zero_out", zero_out)
