"""Values as bytes, and back: arrays, numbers, texts, and lists and dicts of them.

A header in JSON says what is where; the arrays' own bytes follow it.  Reading runs no code.
"""

from __future__ import annotations

import json
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import RankError
from mlxgraph.mlx_facts.dtypes import dtype_named
from mlxgraph.mlx_facts.processes import as_bytes, bytes_of, of_bytes

_PLAIN = (str, int, float, bool, type(None))
_LENGTH = 8  # bytes that say how long the header is
_STEP = 16  # an array begins at a multiple of this


def packed(value: Any) -> list[mx.array]:
    """A value as pieces of bytes, uint8 each."""
    arrays: list[mx.array] = []
    header = json.dumps(_told(value, arrays)).encode()
    first = len(header).to_bytes(_LENGTH, "little") + header
    parts = [bytes_of(first + bytes(-len(first) % _STEP))]
    for array in arrays:
        data = as_bytes(array)
        parts += [data, bytes_of(bytes(-data.size % _STEP))]
    return parts


def unpacked(data: mx.array) -> Any:
    """What was packed.  Args: data: uint8 (length,); what follows the value is left alone."""
    length = int.from_bytes(_read(data[:_LENGTH]), "little")
    end = _LENGTH + length
    told = json.loads(_read(data[_LENGTH:end]))
    return _made(told, data, [end + -end % _STEP])


def _told(value: Any, arrays: list[mx.array]) -> Any:
    if isinstance(value, mx.array):
        arrays.append(value)
        return {"mx": str(value.dtype).removeprefix("mlx.core."), "shape": list(value.shape)}
    if isinstance(value, np.ndarray):
        arrays.append(bytes_of(np.ascontiguousarray(value).tobytes()))
        return {"np": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return _told(value.item(), arrays)
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_told(one, arrays) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[_told(name, arrays), _told(one, arrays)] for name, one in value.items()]}
    if isinstance(value, _PLAIN):
        return value
    raise RankError(
        f"a {type(value).__name__} does not go from rank to rank",
        "Give arrays, numbers, texts, or lists, tuples and dicts of them; or write `with"
        " mg.alone():` around it.",
    )


def _made(told: Any, data: mx.array, at: list[int]) -> Any:
    if not isinstance(told, dict):
        return told
    if "list" in told:
        return [_made(one, data, at) for one in told["list"]]
    if "tuple" in told:
        return tuple(_made(one, data, at) for one in told["tuple"])
    if "dict" in told:
        return {_made(name, data, at): _made(one, data, at) for name, one in told["dict"]}
    shape = told["shape"]
    count = int(np.prod(shape, dtype=np.int64))
    if "mx" in told:
        kind = dtype_named(told["mx"])
        return of_bytes(_next(data, count * kind.size, at), kind, shape)
    dtype = np.dtype(told["np"])
    part = _next(data, count * dtype.itemsize, at)
    return np.frombuffer(_read(part), dtype).reshape(shape).copy()


def _next(data: mx.array, size: int, at: list[int]) -> mx.array:
    start = at[0]
    at[0] += size + -size % _STEP
    return data[start : start + size]


def _read(data: mx.array) -> bytes:
    return np.array(data).tobytes()
