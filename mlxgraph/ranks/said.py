"""What ranks compare before they begin: prompts, edits, weights, each as a few bytes.

Ranks that were given different things would put together answers of different questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.mlx_facts.processes import as_bytes

BYTES = 8
_WHOLE = 1 << 16  # bytes of an array up to which all of it is compared
_FEW = 8  # numbers along an axis of a larger one, evenly chosen


def digest(*things: Any) -> bytes:
    """A few bytes that differ where the things do, the same in every process.

    Args: things: texts, numbers, arrays, and lists, tuples and dicts of them; what else there is
        counts by its type alone.
    """
    found = hashlib.sha256()
    arrays: list[mx.array] = []
    _feed(found, things, arrays)
    if arrays:
        mx.eval(arrays)
        for array in arrays:
            found.update(memoryview(array))  # type: ignore[arg-type]
    return found.digest()[:BYTES]


def weights(named: Iterable[tuple[str, mx.array]]) -> bytes:
    """The same of a model's parameters: names, shapes, dtypes, and some numbers of each."""
    return digest(*((name, array) for name, array in named))


def _feed(found: Any, thing: Any, arrays: list[mx.array]) -> None:
    if isinstance(thing, np.ndarray) and thing.dtype.kind in "biufc":
        thing = mx.array(thing)
    if isinstance(thing, mx.array):
        found.update(f"{thing.dtype}{thing.shape}".encode())
        arrays += [as_bytes(part) for part in _parts(thing)]
    elif isinstance(thing, np.ndarray):
        _feed(found, thing.tolist(), arrays)
    elif isinstance(thing, Mapping):
        _feed(found, list(thing.items()), arrays)
    elif isinstance(thing, (list, tuple, range)):
        found.update(f"{len(thing)}[".encode())
        if all(type(one) is int for one in thing):
            found.update(repr(list(thing)).encode())
        else:
            for one in thing:
                _feed(found, one, arrays)
        found.update(b"]")
    elif isinstance(thing, (str, int, float, bool, type(None))):
        found.update(repr(thing).encode())
    elif isinstance(thing, bytes):
        found.update(thing)
    else:
        found.update(type(thing).__name__.encode())
    found.update(b",")


def _parts(array: mx.array) -> list[mx.array]:
    """All of an array, or of a large one some rows, of these some numbers, and the last ones."""
    if array.nbytes <= _WHOLE or array.ndim == 0:
        return [array]
    some = tuple([slice(None, None, max(1, size // _FEW)) for size in array.shape])
    last = (-1,) * (array.ndim - 1)
    return [array[some], array[last][-_FEW:]]
