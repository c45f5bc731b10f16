"""Graphs on disk: one file in safetensors layout.

    8 bytes         length of the header, little-endian
    header          JSON: where each array lies, and under `__metadata__` the graph's structure
                    (see `file.encode`), the format's version and a checksum
    the rest        the arrays' bytes

So any reader of safetensors finds the arrays, and the structure as text.  Loading believes
nothing: sizes are checked before anything is read, and everything before it is used.
Never: imports mlx (arrays go through a codec, which `run.codec` sets), runs what a file names,
or leaves half a file behind.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from mlxgraph.errors import GraphFileError
from mlxgraph.graph.base import G, GraphBase
from mlxgraph.graph.file.decode import Decoder
from mlxgraph.graph.file.encode import Encoder
from mlxgraph.graph.file.fields import bad, checked_shape, listed, record, row, whole
from mlxgraph.graph.values import dtype_name

FORMAT = "mlxgraph"
VERSION = 1
MOST_HEADER = 2**25  # bytes
MOST_ENTRIES = 4_000_000  # values in the header: what bounds the memory that parsing it takes
LONGEST_NUMBER = 64  # digits
# safetensors' names of dtypes, ours, and bytes per element
DTYPES = {
    "BOOL": ("bool_", 1), "U8": ("uint8", 1), "I8": ("int8", 1), "U16": ("uint16", 2),
    "I16": ("int16", 2), "U32": ("uint32", 4), "I32": ("int32", 4), "U64": ("uint64", 8),
    "I64": ("int64", 8), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "F32": ("float32", 4),
    "F64": ("float64", 8), "C64": ("complex64", 8),
}  # fmt: skip
_TAGS = {ours: tag for tag, (ours, _) in DTYPES.items()}


class Codec(Protocol):
    """What a graph's arrays are: the one thing that this room is told from outside."""

    def describe(self, array: Any) -> tuple[str, tuple[int, ...]]:
        """An array's dtype by name, and its shape."""

    def to_bytes(self, array: Any) -> Any:
        """Its elements in order, as a buffer of bytes."""

    def from_bytes(self, data: bytes, dtype: str, shape: tuple[int, ...]) -> Any:
        """The array that `describe` and `to_bytes` were given."""


class _Tensor:
    """Where one array lies in the file."""

    def __init__(self, dtype: str, shape: tuple[int, ...], start: int, stop: int):
        self.dtype = dtype
        self.shape = shape
        self.start = start
        self.stop = stop

    def entry(self) -> dict[str, Any]:
        """As the header has it."""
        tag = _TAGS[self.dtype]
        return {"dtype": tag, "shape": self.shape, "data_offsets": [self.start, self.stop]}


_codec: list[Codec] = []  # one, set at import by `run.codec`


def set_codec(codec: Codec) -> None:
    """Say what arrays are, for all saving and loading from now on."""
    _codec[:] = [codec]


# -- saving ---------------------------------------------------------------------------------------


def save(graph: GraphBase, path: str | os.PathLike[str]) -> None:
    """Write a graph to one file, whole or not at all.  See `Graph.save`."""
    codec = _codec[0]
    encoder = Encoder()
    structure = json.dumps(encoder.graph(graph), allow_nan=False, separators=(",", ":"))
    tensors, blocks = _laid_out(encoder.arrays, codec)
    try:
        Decoder(encoder.arrays, type(graph)).graph(_parsed(structure.encode()))
    except GraphFileError as error:  # better said now than when the file is read
        raise GraphFileError(f"this graph has no form on disk: {error}") from error
    entries = {str(k): tensor.entry() for k, tensor in enumerate(tensors)}
    checksum = _checksum(structure, tensors)
    for block in blocks:
        checksum.update(block)
    about = {
        "format": FORMAT,
        "version": str(VERSION),
        "checksum": checksum.hexdigest(),
        "graph": structure,
    }
    header = json.dumps({"__metadata__": about, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # safetensors aligns its data
    if len(header) > MOST_HEADER:
        raise GraphFileError(
            f"this graph's structure takes {len(header):,} bytes, and a file holds {MOST_HEADER:,}"
        )
    _write_whole(Path(path), [len(header).to_bytes(8, "little"), header, *blocks])


def _laid_out(arrays: Sequence[Any], codec: Codec) -> tuple[list[_Tensor], list[Any]]:
    """Where the arrays will lie, one after the other, and their bytes."""
    tensors, blocks, at = [], [], 0
    for k, array in enumerate(arrays):
        described, shape = codec.describe(array)
        dtype = dtype_name(described)
        if dtype not in _TAGS:
            raise GraphFileError(f"constant {k} is an array of {dtype}, which has no form on disk")
        block = codec.to_bytes(array)
        tensors.append(_Tensor(dtype, tuple(shape), at, at + len(block)))
        blocks.append(block)
        at += len(block)
    return tensors, blocks


def _checksum(structure: str, tensors: Sequence[_Tensor]) -> Any:
    """A checksum of everything that the header says; the data is added to it."""
    entries = [tensor.entry() for tensor in tensors]
    return hashlib.sha256(json.dumps([structure, entries]).encode())


def _write_whole(path: Path, blocks: Sequence[Any]) -> None:
    """Write beside the file and move into its place, so that no reader sees half of it."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():  # said of the path that was given, and of no other
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}")
    try:
        with open(beside, "xb") as file:
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


# -- loading --------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], make: type[G]) -> G:
    """Read a graph.  See `Graph.load`."""
    path = Path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            bad("it is no file")
        with open(path, "rb") as file:
            return _load(file, make)
    except GraphFileError as error:
        raise GraphFileError(
            f"{path} is no graph that this version of mlxgraph can read: {error}."
        ) from error


def _load(file: IO[bytes], make: type[G]) -> G:
    codec = _codec[0]
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(_read(file, 8), "little")
    if length > min(size - 8, MOST_HEADER):
        bad(f"its header would take {length:,} bytes")
    header = _parsed(_read(file, length))
    if type(header) is not dict or "__metadata__" not in header:
        bad("it has no metadata")
    structure, expected = _metadata(header.pop("__metadata__"))
    tensors = _tensors(header, size - 8 - length)
    checksum = _checksum(structure, tensors)
    arrays = []
    for tensor in tensors:
        data = _read(file, tensor.stop - tensor.start)
        checksum.update(data)
        arrays.append(codec.from_bytes(data, tensor.dtype, tensor.shape))
    if checksum.hexdigest() != expected:
        bad("it was changed since it was saved: its checksum is another")
    return Decoder(arrays, make).graph(_parsed(structure.encode()))


def _read(file: IO[bytes], count: int) -> bytes:
    try:
        data = file.read(count)
    except MemoryError:
        bad("it is larger than memory")
    if len(data) < count:
        bad("it ends too early")
    return data


def _metadata(about: Any) -> tuple[str, str]:
    """The structure's text and the checksum, from a file of this format and version."""
    if type(about) is not dict or about.get("format") != FORMAT:
        bad("its metadata are not a graph's")
    version = about.get("version")
    if type(version) is not str or not version.isascii() or not version.isdigit():
        bad("it does not say its version")
    if version.lstrip("0") != str(VERSION):
        bad(
            f"it has version {version[:20]} of the format, and this mlxgraph reads version "
            f"{VERSION}; update mlxgraph"
        )
    structure, checksum = about.get("graph"), about.get("checksum")
    if type(structure) is not str or not structure.isascii() or type(checksum) is not str:
        bad("its structure is missing")
    return structure, checksum


def _tensors(header: dict[str, Any], size: int) -> list[_Tensor]:
    """Where the arrays lie: one after the other from the start of the data to its end."""
    tensors: list[_Tensor] = []
    at = 0
    for k in range(len(header)):
        if str(k) not in header:
            bad("its arrays are not numbered")
        fields = ("dtype", "shape", "data_offsets")
        tag, dims, offsets = record(header[str(k)], fields, f"array {k}")
        if type(tag) is not str or tag not in DTYPES:
            bad(f"array {k} has the unknown dtype {tag!r:.40}")
        dtype, width = DTYPES[tag]
        shape = checked_shape(tuple(listed(dims, "a shape")))
        start, stop = row(offsets, 2, "a range")
        if not whole(start, at, at) or not whole(stop, at, size):
            bad(f"array {k} does not lie where the one before it ends")
        if stop - start != math.prod(shape) * width:
            bad(f"array {k} has another size than its shape")
        tensors.append(_Tensor(dtype, shape, start, stop))
        at = stop
    if at != size:
        bad("it does not end where its arrays end")
    return tensors


# -- JSON -----------------------------------------------------------------------------------------


def _parsed(data: bytes) -> Any:
    """Strict JSON, within bounds."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_ENTRIES:
        bad(f"its structure has more than {MOST_ENTRIES:,} values")
    try:
        return json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_constant=bad,
            parse_int=_int,
            parse_float=_float,
        )
    except GraphFileError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise GraphFileError(f"its structure is no JSON ({str(error)[:80]})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        bad("a name stands twice in one object")
    return found


def _int(digits: str) -> int:
    return int(digits) if len(digits) <= LONGEST_NUMBER else bad("a number is too long")


def _float(digits: str) -> float:
    return float(digits) if len(digits) <= LONGEST_NUMBER else bad("a number is too long")
