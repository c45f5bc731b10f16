"""Interventions on directions and lengths: project out, swap a subspace, rescale.

A direction is a vector along the last axis.  Bases are made once, in float64 by numpy, when the
intervention is made; what is done to an activation is two products with the basis, in float32
where the activation is in fewer bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InterventionError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph.named import Named
from mlxgraph.interventions.operands import are_numbers, check_fits, like, operand, whose
from mlxgraph.record.handle import is_handle

Function = Callable[[mx.array], mx.array]
SAME_SPAN = 1e-6  # of the largest singular value: what counts as no direction of its own


@at_the_edge
def project_out(directions: mx.array) -> Function:
    """Remove what an activation has along a direction, or along several: directional ablation.

    `x - (x @ V.T) @ V`, where the rows of `V` are the directions, made orthonormal.  Doing it twice
    is doing it once.

    Args: directions: one, shape (width,), of any length; or several rows (number, width), of which
        what they span is removed.  One may also be a param or a value of the block.
    Raises: InterventionError for a direction of zeros or one that is not finite, ShapeError for
        another number of axes; when applied, ShapeError for another width.
    Source: Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction",
        arXiv:2406.11717.
    """
    given = operand(directions, "project_out")
    if is_handle(given):
        _check_one(given, "project_out")
        return Named("project_out", (given,), lambda x: _without_one(x, given))
    basis = basis_of(given, "project_out", may_be_empty=False)

    def projected(x: mx.array) -> mx.array:
        _check_width(x, basis, "projected out of")
        wide = _wide(x)
        return like(x, wide - (wide @ basis.T) @ basis)

    return Named("project_out", (given,), projected)


@at_the_edge
def swap_subspace(rows: mx.array, source: mx.array) -> Function:
    """Put another activation's part in a subspace in place of the activation's own.

    `x + ((source - x) @ R.T) @ R`, where the rows of `R` are made orthonormal: distributed
    interchange.  All of the space is a full patch, none of it changes nothing, and a subspace and
    its complement, one after the other, make the full patch.

    Args:
        rows: what spans the subspace: one direction (width,) or several (number, width), of which
            there may be none.
        source: an activation that broadcasts to the one that is edited: an array, a param, or a
            value of the block.
    Raises: InterventionError, ShapeError as `project_out`.
    Source: Geiger et al. 2023, "Finding Alignments Between Interpretable Causal Variables and
        Distributed Neural Representations", arXiv:2303.02536.
    """
    given, other = operand(rows, "swap_subspace"), operand(source, "swap_subspace")
    if is_handle(given):
        raise InterventionError(
            "iv.swap_subspace makes its rows orthonormal when it is made, and these are not known"
            " by then.\n  Write the arithmetic: `h + ((source - h) @ R.T) @ R`."
        )
    basis = basis_of(given, "swap_subspace", may_be_empty=True)

    def swapped(x: mx.array) -> mx.array:
        check_fits(x, other, "given a part of a value of shape")
        if basis.shape[0] == 0:
            return x
        _check_width(x, basis, "swapped in")
        wide = _wide(x)
        return like(x, wide + ((other - wide) @ basis.T) @ basis)

    return Named("swap_subspace", (given, other), swapped)


@at_the_edge
def rescale(norm: float | mx.array | None = None, like: mx.array | None = None) -> Function:
    """Give the activation at each position another length, and leave its direction as it is.

    Args:
        norm: the Euclidean norm along the last axis that it is to have, a number or an array that
            broadcasts to (..., 1).
        like: an activation whose norm it is to have instead, position by position: after a vector
            was added, `like=` the activation before it leaves the norm as it was.
    Zeros, which have no direction, stay zeros.
    Raises: InterventionError (a ValueError) for both or neither, or a negative norm; when applied,
        ShapeError.
    """
    if (norm is None) == (like is None):
        raise InterventionError(
            "iv.rescale takes a norm, or an activation whose norm to match.\n"
            "  Write iv.rescale(10.0) or iv.rescale(like=before)."
        )
    if are_numbers(norm) and norm < 0:  # type: ignore[operator]
        raise InterventionError(f"a norm is not negative, and {norm} is.\n  Write iv.rescale(1.0).")
    given = operand(norm if like is None else like, "rescale")
    matched = like is not None

    def rescaled(x: mx.array) -> mx.array:
        check_fits(x, given, "rescaled like a value of shape" if matched else "rescaled to")
        wide = _wide(x)
        target = _norm(_wide(given)) if matched else given
        shape = getattr(given, "shape", None)
        if not matched and shape and shape[-1] != 1:
            raise ShapeError(
                f"{whose(x)}{x.shape} cannot be rescaled to norms of shape {tuple(shape)}",
                str(here()),
                "A norm is one number for each position: give shape (..., 1).",
            )
        size = mx.maximum(_norm(wide), _SMALLEST)
        return _in_dtype(x, wide * (target / size))

    return Named("rescale", (norm, like), rescaled)


_SMALLEST = 1e-30
_in_dtype = like  # `like` is an argument above


def basis_of(directions: Any, written: str, may_be_empty: bool) -> mx.array:
    """Orthonormal rows (number, width), float32, that span what the directions span.

    Raises: InterventionError, ShapeError.
    """
    if is_handle(directions):
        raise InterventionError(
            "directions are needed whose numbers are known, not a param or a value of a block.\n"
            "  Give arrays, or write iv.project_out(v) at each module."
        )
    if not isinstance(directions, mx.array) or directions.ndim not in (1, 2):
        shape = getattr(directions, "shape", None)
        shown = "a number" if shape is None else f"an array of shape {tuple(shape)}"
        raise ShapeError(
            f"iv.{written} takes directions, not {shown}",
            str(here()),
            "Give one of shape (width,), or rows (number, width).",
        )
    try:
        rows = np.asarray(directions.astype(mx.float32), dtype=np.float64)
    except (RuntimeError, ValueError) as error:
        raise InterventionError(
            f"iv.{written} looks at its directions when it is made, and these cannot be looked at"
            " here: mx.grad, mx.vmap or mx.compile follows them.\n"
            "  Write the arithmetic in their stead: `h - (h @ v)[..., None] * v / (v @ v)`."
        ) from error
    rows = rows.reshape(-1, rows.shape[-1]) if rows.ndim == 1 else rows
    if not np.isfinite(rows).all():
        raise InterventionError(
            f"iv.{written} was given a direction that is not finite.\n"
            "  Look for nan or inf in what it was computed from."
        )
    lengths = np.linalg.norm(rows, axis=1)
    if (lengths == 0).any() or not (len(rows) or may_be_empty):
        which = "no directions" if not len(rows) else "a direction of zeros"
        raise InterventionError(
            f"iv.{written} was given {which}.\n  Give directions with a length, such as a"
            " difference of two activations."
        )
    if not len(rows):
        return mx.zeros((0, rows.shape[-1]))
    _, sizes, basis = np.linalg.svd(rows / lengths[:, None], full_matrices=False)
    return mx.array(basis[sizes > SAME_SPAN * sizes[0]].astype(np.float32))


def _check_one(direction: Any, written: str) -> None:
    """A direction that is not known yet is one, whose length is divided by in the run."""
    shape = getattr(direction, "shape", None)
    if shape is None or len(shape) != 1:
        raise ShapeError(
            f"iv.{written} makes several directions orthonormal when it is made, and"
            f" {'a number' if shape is None else f'shape {tuple(shape)}'} is not one direction that"
            " a run may give",
            str(here()),
            "Give one of shape (width,), `mg.param('v', shape=(width,))`; or an array of rows.",
        )


def _without_one(x: mx.array, direction: Any) -> mx.array:
    if x.shape[-1] != direction.shape[0]:
        _check_width(x, direction[None], "projected out of")
    wide, along = _wide(x), _wide(direction)
    squared = mx.maximum(mx.sum(along * along), _SMALLEST)
    return like(x, wide - mx.sum(wide * along, axis=-1, keepdims=True) * (along / squared))


def _check_width(x: mx.array, basis: Any, verb: str) -> None:
    width = basis.shape[-1]
    if not x.ndim or x.shape[-1] != width:
        raise ShapeError(
            f"directions of width {width} cannot be {verb} {whose(x)}{x.shape}",
            str(here()),
            f"Give directions of width {x.shape[-1] if x.ndim else 1}.",
        )


def _wide(x: Any) -> Any:
    """At least float32: a small part along a direction is a sum of many products."""
    return x.astype(mx.float32) if x.dtype in (mx.float16, mx.bfloat16) else x


def _norm(x: mx.array) -> mx.array:
    return mx.sqrt(mx.sum(x * x, axis=-1, keepdims=True))
