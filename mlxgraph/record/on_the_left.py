"""Plain arrays on the left: `total += h`, `buffer[k] = h` and `table[h]` with a recorded value.

MLX would change the user's array in place, to one that can never be computed: what is recorded has
no values yet.  Python asks the left side alone, so the methods of `mx.array` that change it look at
what they are given, whether a block is open or not; everything else they do as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from mlxgraph.errors import PlainArrayError
from mlxgraph.errors.source_line import here
from mlxgraph.graph import ops
from mlxgraph.mlx_facts.arrays import exchange
from mlxgraph.record.bounds import check_bounds
from mlxgraph.record.conform import check_number
from mlxgraph.record.freeze import freeze
from mlxgraph.record.handed import HANDED, refuse_handed
from mlxgraph.record.handle import HANDLES, handle_in, open_recording
from mlxgraph.record.operators import SIGNS
from mlxgraph.record.stack import current


def _changes_in_place(symbol: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def method(self: Any, other: Any) -> Any:
        if type(other) in HANDLES and other._recording is not None and type(self) not in HANDLES:
            raise PlainArrayError(
                f"`{symbol}=` on an array of your own would take the numbers of a recorded value",
                str(here()),
                f"Write `total = total {symbol} h` in place of `total {symbol}= h`.  The"
                " array is as it was.",
            )
        return real(self, other)

    return method


def _sets_items(real: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def method(self: Any, index: Any, value: Any) -> Any:
        if HANDED:
            refuse_handed(self)
        kind = type(index)
        found = value if type(value) in HANDLES else None
        if found is None and (kind in _PARTS or kind in HANDLES):
            found = _in_index(index)
        if found is not None and found._recording is not None and type(self) not in HANDLES:
            raise PlainArrayError(
                "writing into an array of your own would take the numbers of a recorded value",
                str(here()),
                "Keep the parts in a list and write `mx.stack(parts)`; or write into a recorded"
                " array:\n  `buffer = mx.zeros_like(h)`, `buffer = mx.array(h)`, or"
                " `h.at[index].add(v)`.  The array is as it was.",
            )
        return real(self, index, value)

    return method


def _gets_items(real: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def method(self: Any, index: Any) -> Any:
        kind = type(index)
        if kind in HANDLES or kind in _PARTS:
            found = _in_index(index)
            if found is not None and found._recording is not None:
                check_bounds(index, self.shape)
                return found._recording.call(ops.GETITEM, (self, index), {})
        return real(self, index)

    return method


_PARTS = frozenset({tuple, list, slice})


def _in_index(index: Any) -> Any:
    """The first handle in an index, the bounds of its slices included."""
    kind = type(index)
    if kind is slice:
        return handle_in((index.start, index.stop, index.step))
    if kind is tuple:
        found = (_in_index(item) for item in index)
        return next((one for one in found if one is not None), None)
    return handle_in((index,))


class _PlainAt:
    """`array.at[index]` of a plain array in a block: recorded where a recorded value takes part."""

    __slots__ = ("_array", "_real", "_where")

    def __init__(self, array: Any, real: Any, where: Any = None):
        self._array, self._real, self._where = array, real, where

    def __getitem__(self, index: Any) -> _PlainAt:
        return _PlainAt(self._array, self._real, index)

    def _do(self, name: str, value: Any) -> Any:
        found = handle_in((value,))
        found = _in_index(self._where) if found is None else found
        if found is None:
            return getattr(self._real[self._where], name)(value)
        recording = open_recording(found)
        check_bounds(self._where, self._array.shape)
        check_number(ops.AT[name], value, self._array)
        array, where = freeze(self._array, recording), freeze(self._where, recording)
        return recording.result(ops.AT[name], (array, where, recording.operand(value)))


def _at_method(name: str) -> Callable[[_PlainAt, Any], Any]:
    return lambda self, value: self._do(name, value)


for _name in ops.AT:
    setattr(_PlainAt, _name, _at_method(_name))


def _changes_a_copy(real: Any) -> property:
    def at(self: Any) -> Any:
        found = real.__get__(self)
        return found if current() is None else _PlainAt(self, found)

    return property(at)


for _name, _sign in SIGNS.items():
    exchange(f"__i{_name}__", partial(_changes_in_place, _sign))
exchange("__setitem__", _sets_items)
exchange("__getitem__", _gets_items)
exchange("at", _changes_a_copy)
