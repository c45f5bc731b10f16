"""Several runs in one batch: which part of each value is whose.

A call's own rows, taken together, are a slab; a batch of runs is slab after slab.  Which axis of a
value that is, a forward on two slabs shows.

In: a call, censuses.  Out: axes, and parts of values.
Never: takes a size for an axis because the numbers agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.call import Call


class CannotGrow(Exception):  # noqa: N818 - a reason, not an error: another way is taken
    """A value of which nobody can tell whose part is where."""


class Along(NamedTuple):
    """The axis of the slabs in an array, and the size of one along it.

    Attributes: unit: None where it depends on the number of positions.
    """

    axis: int
    unit: int | None


UNKNOWN = Along(-1, -1)


def repeated(call: Call, count: int) -> Call:
    """The call with so many slabs.  Raises: CannotGrow for a call without rows."""
    rows = _rows(call)
    arrays = [
        mx.concatenate([one] * count) if one.ndim and one.shape[0] == rows else one
        for one in call.arrays
    ]
    given = call.with_arrays(arrays)
    key = (call.key, "slabs", count)
    lengths = None if call.lengths is None else call.lengths * count
    tokens = None if call.tokens is None else mx.concatenate([call.tokens] * count)
    return given._replace(key=key, lengths=lengths, tokens=tokens)


def _rows(call: Call) -> int:
    first = call.arrays[0] if call.arrays else None
    if first is None or not first.ndim:
        raise CannotGrow("the model takes no array of rows")
    return int(first.shape[0])


class Slabs:
    """The axes of a forward's values.

    Args: one, two: censuses of a call, and of it `repeated` twice.
    """

    def __init__(self, call: Call, one: Census, two: Census):
        self.rows = _rows(call)
        self._one, self._two = one, two
        self._known: dict[Site, list[Along | None]] = {}

    def of(self, site: Site) -> list[Along | None]:
        """In place of each leaf of a site's value its axis; None for what slabs share."""
        found = self._known.get(site)
        if found is None:
            found = self._known[site] = self._found(site)
        return found

    def _found(self, site: Site) -> list[Along | None]:
        if self._one.is_inside(site):
            self._two.look_inside()
        mine = leaves(self._one.values.get(site))
        theirs = leaves(self._two.values.get(site))
        if len(mine) != len(theirs):
            return [UNKNOWN if isinstance(leaf, ARRAY) else None for leaf in mine]
        return [self._along(a, b) for a, b in zip(mine, theirs, strict=True)]

    def _along(self, one: Any, two: Any) -> Along | None:
        if not isinstance(one, ARRAY):
            return None
        if not isinstance(two, ARRAY) or one.ndim != two.ndim:
            return UNKNOWN
        grown = [k for k, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
        if not grown:
            return None
        if len(grown) > 1 or two.shape[grown[0]] != 2 * one.shape[grown[0]]:
            return UNKNOWN
        size = one.shape[grown[0]]
        return Along(grown[0], size if size == self.rows else None)


def slabs_in(found: Sequence[Any], axes: Sequence[Along | None], default: int) -> int:
    """How many slabs the arrays of a value hold, the most of them."""
    counts = [
        leaf.shape[along.axis] // along.unit
        for leaf, along in zip(found, axes, strict=False)
        if along is not None and along.unit and along is not UNKNOWN and isinstance(leaf, ARRAY)
    ]
    return max(counts, default=default)


def part(value: mx.array, along: Along, number: int, unit: int) -> mx.array:
    """One slab of an array."""
    where = [slice(None)] * value.ndim
    where[along.axis] = slice(number * unit, (number + 1) * unit)
    return value[tuple(where)]


def first_of(value: mx.array, along: Along, count: int, unit: int) -> mx.array:
    """The first slabs of an array."""
    where = [slice(None)] * value.ndim
    where[along.axis] = slice(0, count * unit)
    return value[tuple(where)]


def put_together(
    value: mx.array, along: Along, unit: int, want: int, edited: Mapping[int, mx.array]
) -> mx.array:
    """An array with so many slabs: its own, the first once more for each that it lacks, and in
    place of some the edited ones."""
    have = value.shape[along.axis] // unit
    if not edited and want == have:
        return value
    pieces: list[mx.array] = []
    where = [slice(None)] * value.ndim

    def keep(start: int, stop: int) -> None:
        if start < min(stop, have):
            where[along.axis] = slice(start * unit, min(stop, have) * unit)
            pieces.append(value[tuple(where)] if stop - start < have else value)
        lacking = stop - max(start, have)
        if lacking > 0:
            pieces.extend([part(value, along, 0, unit)] * lacking)

    at = 0
    for number in sorted(edited):
        keep(at, number)
        pieces.append(edited[number])
        at = number + 1
    keep(at, want)
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=along.axis)


def sized(leaf: mx.array, along: Along | None, arrived: int, wanted: int, path: str) -> Any:
    """An array with more slabs, or fewer; as it is where it has as many as it should."""
    if along is None or along is UNKNOWN and arrived == wanted:
        return leaf
    if along is UNKNOWN:
        raise CannotGrow(f"what {path} is given has no axis that is surely that of the rows")
    unit = along.unit or leaf.shape[along.axis] // arrived
    have = leaf.shape[along.axis] // unit
    if have == wanted:
        return leaf
    if have > wanted:
        return first_of(leaf, along, wanted, unit)
    return put_together(leaf, along, unit, wanted, {})
