"""The bytes of a shard: safetensors' layout, written at known offsets and read by slices.

    8 bytes    length of the header, little-endian
    header     JSON: each tensor's dtype, shape and place
    the rest   the tensors, one after the other

All shapes of a block are known before its first forward, so a shard has its full size from the
start, and each batch's rows go to their places as they come.  `mx.load` reads such a file too, but
always whole tensors: a slice of one is read here, by its offset.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

# MLX's names of dtypes: safetensors' own, and what numpy carries the bytes as (it has no bfloat16,
# and MLX makes a float32 of numpy's float64)
_DTYPES: dict[str, tuple[str, Any]] = {
    "bool": ("BOOL", np.bool_), "uint8": ("U8", np.uint8), "int8": ("I8", np.int8),
    "uint16": ("U16", np.uint16), "int16": ("I16", np.int16), "uint32": ("U32", np.uint32),
    "int32": ("I32", np.int32), "uint64": ("U64", np.uint64), "int64": ("I64", np.int64),
    "float16": ("F16", np.float16), "bfloat16": ("BF16", np.uint16), "float32": ("F32", np.float32),
    "float64": ("F64", np.uint64), "complex64": ("C64", np.complex64),
}  # fmt: skip
_CARRIED = {mx.bfloat16: mx.uint16, mx.float64: mx.uint64}
_BY_NAME = {
    str(dtype).rpartition(".")[2]: dtype
    for dtype in (
        mx.bool_, mx.uint8, mx.int8, mx.uint16, mx.int16, mx.uint32, mx.int32, mx.uint64, mx.int64,
        mx.float16, mx.bfloat16, mx.float32, mx.float64, mx.complex64,
    )
}  # fmt: skip
MOST_HEADER = 2**27


class Tensor(NamedTuple):
    """Where one array lies in a file: `at` is its first byte."""

    dtype: str
    shape: tuple[int, ...]
    at: int

    @property
    def row(self) -> int:
        """Bytes of one entry of the first axis."""
        return row_bytes(self.dtype, self.shape[1:])

    @property
    def end(self) -> int:
        return self.at + self.row * self.shape[0]


def row_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of an array of this shape."""
    return int(np.dtype(_DTYPES[dtype][1]).itemsize) * prod(shape)


def dtype_name(dtype: mx.Dtype) -> str:
    """The name that a manifest has a dtype under."""
    return str(dtype).rpartition(".")[2]


def mx_dtype(name: str) -> mx.Dtype:
    """The dtype of a name."""
    return _BY_NAME[name]


def laid_out(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
) -> tuple[bytes, dict[str, Tensor]]:
    """The head of a file of these arrays, and where each of them will lie.

    Args: tensors: dtype and shape of each by name, in the order of the file.
    """
    entries, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = at + row_bytes(dtype, shape)
        entries[name] = {"dtype": _DTYPES[dtype][0], "shape": shape, "data_offsets": [at, end]}
        at = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # safetensors aligns its data
    head = len(header).to_bytes(8, "little") + header
    places = {
        name: Tensor(dtype, tuple(shape), len(head) + entries[name]["data_offsets"][0])  # type: ignore[operator, index]
        for name, (dtype, shape) in tensors.items()
    }
    return head, places


def tensors_of(file: int, size: int) -> dict[str, Tensor] | None:
    """What an open file of `size` bytes holds, by its header; None if that cannot be."""
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if not 0 < length <= min(size - 8, MOST_HEADER):
        return None
    names = {tag: name for name, (tag, _) in _DTYPES.items()}
    try:
        entries = json.loads(os.pread(file, length, 8))
        found = {
            name: Tensor(
                names[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
            )
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if all(tensor.end <= size for tensor in found.values()) else None


def carried(array: mx.array) -> mx.array:
    """An array as numpy can see it: the same bytes."""
    kind = _CARRIED.get(array.dtype)
    return array if kind is None else array.view(kind)


def read_into(file: int, tensor: Tensor, start: int, out: np.ndarray) -> None:
    """Entries of a tensor's first axis, from `start` on, into rows as numpy carries them.

    Raises: EOFError for a file that is too short.
    """
    if not out.size:
        return
    into, at = memoryview(out.data).cast("B"), tensor.at + start * tensor.row
    while into:
        count = _pread(file, into, at)
        if not count:
            raise EOFError
        into, at = into[count:], at + count


def _pread(file: int, into: memoryview, at: int) -> int:
    """Read into a buffer.  Returns: how many bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [into], at)
    data = os.pread(file, len(into), at)
    into[: len(data)] = data
    return len(data)


def as_array(rows: np.ndarray, dtype: str) -> mx.array:
    """What was read, in its own dtype."""
    wanted, array = mx_dtype(dtype), mx.array(rows)
    return array if array.dtype == wanted else array.view(wanted)


def empty_rows(count: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Room for rows of a site."""
    return np.empty((count, *shape), _DTYPES[dtype][1])
