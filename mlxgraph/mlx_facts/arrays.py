"""Arrays as objects: sharing data, being filled, wearing a class, and gaps of indexing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxgraph.mlx_facts.originals import ARRAY, full, zeros

_set_item = ARRAY.__setitem__
_add_in_place = ARRAY.__iadd__


def same_data(array: mx.array) -> mx.array:
    """`__copy__` is another array object on the same data: `x += y` on one leaves the other, and
    nothing is copied (`mx.array(x)` would).  Of a subclass it makes a plain array."""
    return array.__copy__()


def fill(array: mx.array, result: mx.array) -> None:
    """`array[...] = result` makes an existing array object, of a subclass too, hold what `result`
    holds: lazily, and gradients flow through it."""
    _set_item(array, ..., result)


def become(array: mx.array, dtype: mx.Dtype) -> None:
    """`array += x` makes an existing array object one of the dtype that both have together."""
    _add_in_place(array, zeros((), dtype))


def wear(array: mx.array, kind: type) -> None:
    """The class of an array of a subclass can be exchanged for another one of the same slots."""
    array.__class__ = kind  # type: ignore[assignment]


def filled_like(array: mx.array, value: Any) -> mx.array:
    """`mx.full` leaves a float a float where an integer dtype was asked for, so it is cast."""
    return full(array.shape, value, dtype=array.dtype).astype(array.dtype)


def writes_elsewhere(index: Any) -> bool:
    """A whole number and an array with a slice between them (`x[0, :, [0, 3]]`), or an array beside
    a new axis, read one part, and write another or none."""
    if type(index) is not tuple or not any(isinstance(i, (ARRAY, list)) for i in index):
        return False
    chosen = [k for k, i in enumerate(index) if not isinstance(i, slice) and i is not ...]
    apart = chosen[-1] - chosen[0] >= len(chosen)
    return None in map(_none, index) or (apart and any(isinstance(i, int) for i in index))


def _none(part: Any) -> Any:
    return None if part is None else ...


def chooses_nothing(array: mx.array, index: Any) -> bool:
    """Where an array and an empty slice choose nothing, a write ends the process."""
    if type(index) is not tuple or not any(isinstance(i, (ARRAY, list)) for i in index):
        return False
    return array[index].size == 0


def is_mask(index: Any) -> bool:
    """An array of bools can be written through (`x[mask] = 0`) and not be read through."""
    return isinstance(index, ARRAY) and index.dtype == mx.bool_


def exchange(method: str, made: Callable[[Any], Any]) -> None:
    """What is set on the class `mx.array` is what Python calls for every array, whoever made it."""
    real = getattr(ARRAY, method, None)
    if real is not None:  # not every version has every operator
        setattr(ARRAY, method, made(real))
