"""Which axes of a value are those of rows and of positions: found, not guessed.

A forward on a token more shows the one, a forward on a row more the other.  Neither is computed,
and neither is asked for where a value is (batch, length, width), as nearly all are.

In: a call, a site.  Out: axes.  Never: takes a size for an axis because the numbers agree.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph.nested import leaves
from mlxgraph.graph.site import INPUTS, Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.stack import paused
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.engine import Engine
from mlxgraph.run.turned import grown_axes
from mlxgraph.trace.cache_lengths import length_of
from mlxgraph.trace.inputs import call_of


class Axes(NamedTuple):
    """The axis of a value's rows, or None where it has no one such axis; and that of positions."""

    rows: int | None
    positions: int


class AxesOf:
    """What tells the axes of a call's values.

    In a call that is not of texts, axis 1 of the first array counts the positions, and so does
    axis 1 of what modules give.
    """

    __slots__ = ("_engine", "_call")

    def __init__(self, engine: Engine, call: Call):
        self._engine, self._call = engine, call

    def __call__(self, site: Site, value: Any) -> Axes | None:
        """The axes of a site's value, of which `value` is the part that is meant; None where there
        are no positions, or several axes of them."""
        if self._call.tokens is not None and self._call.lengths is not None:
            return _found(self._engine, self._call, site, value)
        return _found_in_arrays(self._engine, self._call, site, value)

    def are_all(self, keys: int) -> bool:
        """Whether so many keys can be those of all tokens so far, one after the other: a cache that
        keeps the last ones writes over the first, wherever these are."""
        cache = self._call.kwargs.get("cache")
        held = length_of(cache) if isinstance(cache, (list, tuple)) else None
        return not held or keys == held + self._call.arrays[0].shape[1]


def axes_of(engine: Engine, call: Call) -> AxesOf | None:
    """What tells a call's axes; None for a call on no array of rows."""
    return AxesOf(engine, call) if call.arrays and call.arrays[0].ndim > 1 else None


def _found_in_arrays(engine: Engine, call: Call, site: Site, value: Any) -> Axes | None:
    if not _is_inside(engine, call, site):
        return Axes(0, 1)
    first, *others = call.arrays
    rows, length, *rest = first.shape
    with paused():
        more = mx.zeros((rows, length + 1, *rest), dtype=first.dtype)
        longer = describe_call(*call.filled([more, *others]))
    try:
        found = grown_axes(tuple(value.shape), _shape(engine, call, site, value, longer), length)
    except Exception:  # the model's own: it does not run on a position more
        return None
    return Axes(0, found[0]) if found is not None and len(found) == 1 else None


def _found(engine: Engine, call: Call, site: Site, value: Any) -> Axes | None:
    assert call.tokens is not None and call.lengths is not None
    rows, length = call.tokens.shape
    shape = tuple(value.shape)
    if len(shape) == 3 and shape[:2] == (rows, length) and not _is_inside(engine, call, site):
        return Axes(0, 1)
    lengths = call.lengths
    with paused():
        long, tall = (
            _of(engine, call, other)
            for other in ([one + 1 for one in lengths], [*lengths, lengths[0]])
        )
    longer = _shape(engine, call, site, value, long)
    more = _shape(engine, call, site, value, tall)
    positions, batch = grown_axes(shape, longer, length), grown_axes(shape, more, rows)
    if positions is None or len(positions) != 1:
        return None
    return Axes(batch[0] if batch and len(batch) == 1 else None, positions[0])


def _is_inside(engine: Engine, call: Call, site: Site) -> bool:
    census = engine.runner.census(call)
    return census.is_inside(census.meant(site.unscoped))


def _shape(
    engine: Engine, call: Call, site: Site, value: Any, like: Call
) -> tuple[int, ...] | None:
    """The value's shape in a forward on other inputs; None where it is not there."""
    with paused():
        mine, other = engine.runner.census(call), engine.runner.census(like)
        meant = mine.meant(site.unscoped)
        if not mine.visits(meant) or not other.visits(meant):
            return None
    here, there = leaves(mine.values[meant]), leaves(other.values[meant])
    if len(here) != len(there):
        return None
    shapes = [
        b.shape
        for a, b in zip(here, there, strict=True)
        if isinstance(a, ARRAY) and isinstance(b, ARRAY) and a.shape == tuple(value.shape)
    ]
    return shapes[0] if len(set(shapes)) == 1 or meant.port != INPUTS and shapes else None


def _of(engine: Engine, call: Call, lengths: list[int]) -> Call:
    """A call like another on texts of other lengths."""
    if call.is_ragged:
        return call_of([[0] * length for length in lengths], engine, call.kwargs)
    tokens = mx.zeros((len(lengths), lengths[0]), mx.int32)
    assert call.tokens is not None
    tokens = tokens.astype(call.tokens.dtype)
    return describe_call((tokens,), call.kwargs, tokens=tokens, lengths=lengths)
