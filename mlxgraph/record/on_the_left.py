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
from mlxgraph.record.handed import HANDED, refuse_handed
from mlxgraph.record.handle import HANDLES, handle_in
from mlxgraph.record.operators import SIGNS


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
        if found is None and (kind is tuple or kind in HANDLES or kind is list):
            found = handle_in((index,))
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
        if kind in HANDLES or kind is tuple or kind is list:
            found = handle_in((index,))
            if found is not None and found._recording is not None:
                return found._recording.call(ops.GETITEM, (self, index), {})
        return real(self, index)

    return method


for _name, _sign in SIGNS.items():
    exchange(f"__i{_name}__", partial(_changes_in_place, _sign))
exchange("__setitem__", _sets_items)
exchange("__getitem__", _gets_items)
