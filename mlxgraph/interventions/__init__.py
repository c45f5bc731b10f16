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
from mlxgraph.interventions.operands import (
    are_numbers,
    check_fits,
    length_of,
    like,
    operand,
    whose,
)
from mlxgraph.interventions.subspaces import project_out, rescale, swap_subspace
from mlxgraph.record.apply import normal_like

__all__ = [
    "InterventionComposer",
    "InterventionFn",
    "add_vector",
    "clamp",
    "compose",
    "noise",
    "project_out",
    "replace_with",
    "rescale",
    "scale",
    "swap_subspace",
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
    factor = operand(factor, "scale")

    def scaled(x: mx.array) -> mx.array:
        check_fits(x, factor, "multiplied by an array of shape")
        return like(x, x * factor)

    return Named("scale", (factor,), scaled)


@at_the_edge
def add_vector(vector: mx.array) -> InterventionFn:
    """Add a steering vector.

    Args: vector: anything that broadcasts to the activation, such as (width,) or
        (batch, length, width).
    Raises (when applied): ShapeError, with both shapes.
    Source: Turner et al. 2023, "Activation Addition", arXiv:2308.10248.
    """
    vector = operand(vector, "add_vector")

    def steered(x: mx.array) -> mx.array:
        check_fits(x, vector, "steered with a vector of shape")
        return like(x, x + vector)

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
    value = operand(value, "replace_with")
    if align not in ALIGNMENTS:
        raise AlignError(align, ALIGNMENTS)

    def replaced(x: mx.array) -> mx.array:
        if align != "strict" and length_of(value) not in (None, 1, length_of(x)):
            return _overlap(x, value, align)
        check_fits(
            x, value, "replaced with a value of shape",
            "For another length, write replace_with(value, align='start') or align='end'.",
        )  # fmt: skip
        if getattr(value, "shape", None) == x.shape:
            return like(x, value)
        return like(x, mx.zeros_like(x) + value)

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
    if are_numbers(min_val, max_val) and min_val > max_val:  # type: ignore[operator]
        raise InterventionError(
            f"clamp from {min_val} to {max_val} leaves nothing.\n"
            f"  Write clamp({max_val}, {min_val})."
        )
    low = None if min_val is None else operand(min_val, "clamp")
    high = None if max_val is None else operand(max_val, "clamp")

    def clamped(x: mx.array) -> mx.array:
        edited = x
        if low is not None:
            check_fits(x, low, "clamped to limits of shape")
            edited = mx.maximum(edited, low)
        if high is not None:
            check_fits(x, high, "clamped to limits of shape")
            edited = mx.minimum(edited, high)
        return like(x, edited)

    return Named("clamp", (low, high), clamped)


@at_the_edge
def noise(std: float = 0.1) -> InterventionFn:
    """Add Gaussian noise, drawn anew on every run; it follows `mx.random.seed`.

    Args: std: the standard deviation, in units of the activation.
    Raises: InterventionError (a ValueError) for a negative number.
    """
    if are_numbers(std) and std < 0:
        raise InterventionError(f"a standard deviation is not negative, and {std} is.")
    std = operand(std, "noise")

    def noisy(x: mx.array) -> mx.array:
        return like(x, x + normal_like(x) * std)

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


@at_the_edge
def compose(*functions: InterventionFn) -> InterventionComposer:
    """Begin a composition: `compose().add(scale(0.8)).add(noise(0.1)).build()`."""
    return InterventionComposer(*functions)


_ELSEWHERE = {
    **dict.fromkeys(("ablate", "zero", "zeros", "zero_ablate", "knockout"), "zero_out"),
    **dict.fromkeys(("add", "steer", "steering"), "add_vector"),
    **dict.fromkeys(("multiply", "mul"), "scale"),
    **dict.fromkeys(("patch", "set", "set_to", "replace"), "replace_with"),
    "clip": "clamp",
    **dict.fromkeys(("ablate_direction", "orthogonalize", "remove_direction"), "project_out"),
    **dict.fromkeys(("interchange", "swap", "das"), "swap_subspace"),
    **dict.fromkeys(("normalize", "match_norm", "set_norm"), "rescale"),
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


def _overlap(x: mx.array, value: Any, align: str) -> mx.array:
    """`x` with the positions that both have taken from `value`."""
    have, given = length_of(x), length_of(value)
    if have is None or given is None:
        raise ShapeError(
            f"{whose(x)}{x.shape} has no sequence axis to align {value.shape} along", str(here())
        )
    both = min(have, given)
    at = slice(0, both) if align == "start" else slice(have - both, have)
    source = slice(0, both) if align == "start" else slice(given - both, given)
    part = value[..., source, :]
    edited = mx.array(x)
    check_fits(edited[..., at, :], part, "replaced with a value of shape")
    edited[..., at, :] = like(x, part)
    return edited


def _composed(*functions: InterventionFn) -> InterventionFn:
    return compose(*functions).build()


for _maker in (
    scale, add_vector, replace_with, clamp, noise, project_out, swap_subspace, rescale,
):  # fmt: skip
    named.register(_maker.__name__, _maker)
named.register("compose", _composed)
for _of, _example in (
    (scale, "iv.scale(0.5)"),
    (add_vector, "iv.add_vector(v)"),
    (replace_with, "iv.replace_with(value)"),
    (clamp, "iv.clamp(-1.0, 1.0)"),
    (noise, "iv.noise(0.1)"),
    (project_out, "iv.project_out(v)"),
    (swap_subspace, "iv.swap_subspace(rows, source)"),
    (rescale, "iv.rescale(10.0)"),
    (compose, "iv.compose().add(iv.scale(0.5)).build()"),
):
    named.register_example(_of, _example)
named.register_plain("zero_out", zero_out)
