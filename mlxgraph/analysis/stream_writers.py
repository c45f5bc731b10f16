"""What writes to the residual stream: the modules whose outputs sum to it, found by the sum itself.

The first layer's input is the sum of some modules' outputs (an embedding, or a norm after it; the
tokens' and the positions' embeddings), and a layer's output less its input is that of some modules
in it, each by its own number.  Least squares on one text say which; where nothing makes the sum up
to rounding, that is an error.

In: a model without edits, a text.  Out: names of modules, in the order of the layers.
Never: goes by names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import arrays_in, first_array
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import NeverCalledError, WritersError

NEAR, NEAR_IN_HALF = 1e-3, 2e-2  # of the sum's size: what rounding leaves
APART, APART_IN_HALF = 1e-5, 1e-3  # of the largest singular value: what is one direction
LITTLE = 0.05  # of the largest factor: one that is none


def residual_writers(model: Traceable, row: mx.array) -> list[str]:
    """The modules that write to the residual stream of a model without edits.

    Args: row: a text, or what else the model takes.
    Raises: WritersError where it is not certain, LayersError.
    """
    blocks = [layer.path for layer in model.layers]  # type: ignore[attr-defined]
    with model.trace(row) as trace:
        called = _called(model, trace.activations)
        given: dict[str, Any] = {}
        made: dict[str, Any] = {}
        for block in blocks:
            try:
                handle = model[block]
                given[block] = next(_given(handle.inputs), None)
                made[block] = first_array(handle.output)
            except NeverCalledError:
                raise WritersError(block, "the forward never calls it") from None
            for value in (given[block], made[block]):
                if not isinstance(value, mx.array):
                    raise WritersError(block, "it does not take and give arrays")
        stream = made[blocks[-1]]
        before = [n for n in _outermost(called, "", blocks) if _fits(model, n, stream)]
        inside = {
            block: [n for n in _outermost(called, block, ()) if _fits(model, n, stream)]
            for block in blocks
        }
        values = {
            name: first_array(model[name].output).save()
            for name in dict.fromkeys([*before, *(n for names in inside.values() for n in names)])
        }
        given = {block: value.save() for block, value in given.items()}
        made = {block: value.save() for block, value in made.items()}
    found = _summed(given[blocks[0]], before, values, f"the input of {blocks[0]}")
    for number, block in enumerate(blocks):
        if made[block].shape != given[block].shape:
            raise WritersError(block, f"it takes {given[block].shape}, gives {made[block].shape}")
        found += _summed(made[block], inside[block], values, block, given[block])
        following = blocks[number + 1 : number + 2]
        if following and not _same(given[following[0]], made[block]):
            raise WritersError(following[0], f"it is not given what {block} gives")
    return found


def _given(inputs: Any) -> Iterator[Any]:
    """The arrays that a module is called with, those without a name first."""
    args, kwargs = inputs
    yield from arrays_in(args)
    yield from arrays_in(kwargs)


def _called(model: Traceable, activations: Iterable[str]) -> list[str]:
    """The modules that the forward calls."""
    modules = {path for path, _ in model.named_modules()}
    paths = (model[name].path for name in activations)
    return [path for path in dict.fromkeys(paths) if path in modules]


def _outermost(called: Sequence[str], block: str, without: Sequence[str]) -> list[str]:
    """The called modules in a block, or outside of all blocks, that are in no called one there."""
    within = [
        name
        for name in called
        if name
        and (name.startswith(f"{block}.") if block else True)
        and not any(name == b or name.startswith(f"{b}.") for b in without)
        and not any(b.startswith(f"{name}.") for b in without)
    ]
    return [n for n in within if not any(n.startswith(f"{other}.") for other in within)]


def _fits(model: Traceable, name: str, stream: Any) -> bool:
    """Whether what a module gives may be added to the stream."""
    value = first_array(model[name].output)
    if not isinstance(value, mx.array) or not mx.issubdtype(value.dtype, mx.floating):
        return False
    shapes = zip(reversed(value.shape), reversed(stream.shape), strict=False)
    fits = value.ndim <= stream.ndim and all(own in (1, size) for own, size in shapes)
    return fits and value.ndim > 0 and value.shape[-1] == stream.shape[-1]


def _floats(value: mx.array) -> np.ndarray:
    return np.array(value.astype(mx.float32)).astype(np.float64)


def _same(one: mx.array, other: mx.array) -> bool:
    return one.shape == other.shape and bool(mx.array_equal(one, other).item())


def _summed(
    whole: mx.array,
    names: Sequence[str],
    values: dict[str, mx.array],
    where: str,
    less: mx.array | None = None,
) -> list[str]:
    """Those modules whose outputs, each by its own number, sum to a value (less another)."""
    total = _floats(whole)
    size = np.linalg.norm(total)
    if less is not None:
        total = total - _floats(less)
    columns: dict[str, np.ndarray] = {}
    for name in names:  # what only passes another's value on is no writer of its own
        column = np.broadcast_to(_floats(values[name]), total.shape).reshape(-1)
        if np.any(column) and not any(np.array_equal(column, c) for c in columns.values()):
            columns[name] = column
    if not columns:
        raise WritersError(where, "no module gives a value of its shape")
    table = np.stack([*columns.values()], axis=1)
    single = whole.dtype in (mx.float32, mx.float64)
    sizes = np.linalg.svd(table / np.linalg.norm(table, axis=0), compute_uv=False)
    if sizes[-1] < (APART if single else APART_IN_HALF) * sizes[0] or len(table) < len(sizes):
        raise WritersError(
            where,
            "several sums of what modules give make it, on this text.  Give another one, of several"
            " tokens that differ, example=text",
        )
    factors, *_ = np.linalg.lstsq(table, total.reshape(-1), rcond=None)
    kept = np.abs(factors) > LITTLE * np.abs(factors).max()
    factors, *_ = np.linalg.lstsq(table[:, kept], total.reshape(-1), rcond=None)
    left = np.linalg.norm(total.reshape(-1) - table[:, kept] @ factors)
    near = NEAR if single else NEAR_IN_HALF
    if left > near * size:
        raise WritersError(where, f"no sum of what modules give makes it ({', '.join(columns)})")
    return [name for name, is_kept in zip(columns, kept, strict=True) if is_kept]


def check_without(model: Traceable, row: mx.array, basis: mx.array) -> None:
    """Raise WritersError where an edited model's stream still has something along directions.

    Args: model: with the edits; basis: orthonormal rows.
    """
    with model.trace(row):
        streams = {
            layer.path: first_array(layer.output).save()
            for layer in model.layers  # type: ignore[attr-defined]
        }
    for path, stream in streams.items():
        wide = stream.astype(mx.float32)
        along, size = mx.linalg.norm(wide @ basis.T), mx.linalg.norm(wide)
        near = NEAR if stream.dtype in (mx.float32, mx.float64) else NEAR_IN_HALF
        if not (along <= near * size).item():
            raise WritersError(path, "it has something along the direction after all of them")
