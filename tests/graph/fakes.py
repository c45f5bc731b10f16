"""Stand-ins for arrays, so that graphs on disk can be tested where there is no mlx."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from mlxgraph.graph.graph import Graph, Note
from mlxgraph.graph.node import CONSTANT, NUMBER, Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import DType, FrozenDict, FrozenList, Literal, Slice

WIDTHS = {"float32": 4, "bfloat16": 2, "bool": 1, "bool_": 1, "int64": 8}


class FakeArray:
    """Bytes with a shape and a dtype; like an array it compares by identity."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32", data: bytes | None = None):
        self.shape = shape
        self.dtype = f"fake.{dtype}"
        size = math.prod(shape) * WIDTHS[dtype]
        self.data = bytes(k * 37 % 256 for k in range(size)) if data is None else data


class FakeCodec:
    """What `graph.file` needs to know of fake arrays."""

    def describe(self, array: FakeArray) -> tuple[str, tuple[int, ...]]:
        return array.dtype.rpartition(".")[2], array.shape

    def to_bytes(self, array: FakeArray) -> bytes:
        return array.data

    def from_bytes(self, data: bytes, dtype: str, shape: tuple[int, ...]) -> FakeArray:
        return FakeArray(shape, dtype.rstrip("_"), data)


def same_bits(first: Any, second: Any) -> bool:
    """Whether two constants are the same number or have the same elements."""
    if isinstance(first, FakeArray):
        return (first.shape, first.dtype, first.data) == (second.shape, second.dtype, second.data)
    return type(first) is type(second) and repr(first) == repr(second)


def small_graph() -> Graph:
    """One write and two saves, with most kinds of argument."""
    h = site_node("model.layers.1")
    last = (Slice(None, None, None), -1)
    vector = Node(CONSTANT, (0, (3,), "float32"))
    moved = Node("mx.add", (Node("getitem", (h, last)), vector))
    moved = Node("mx.multiply", (Node(NUMBER, (1, "float")), moved))
    changed = Node("update", (h, last, moved))
    odd = Node(
        "mx.concatenate",
        (FrozenList((h, changed)), Literal(True), DType("float32"), Ellipsis, None),
        (("axis", -1), ("how", FrozenDict((("a", (1, Literal(2.5))),)))),
    )
    notes = {h: Note("a.py:3", (1, 2, 3), "float32"), changed: Note("a.py:4", (1, 2, 3), "float32")}
    return Graph(
        [(Site("model.layers.1"), changed)],
        [("odd", odd), ("model.layers.1.output", h)],
        [FakeArray((3,)), 4.0],
        notes,
    )


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A file's header and the bytes after it."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: dict[str, Any], rest: bytes) -> bytes:
    """A file with this header, its checksum as if it had been saved so."""
    entries = [header[str(k)] for k in range(len(header) - 1) if str(k) in header]
    about = header["__metadata__"]
    if type(about) is dict and "graph" in about:
        sealed = hashlib.sha256(json.dumps([about["graph"], entries]).encode())
        sealed.update(rest)
        about["checksum"] = sealed.hexdigest()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def changed(data: bytes, change: Callable[[Any], object]) -> bytes:
    """The file with its structure passed through `change`, sealed anew."""
    header, rest = split(data)
    structure = json.loads(header["__metadata__"]["graph"])
    change(structure)
    header["__metadata__"]["graph"] = json.dumps(structure)
    return joined(header, rest)


def with_text(data: bytes, text: str) -> bytes:
    """The file with another text as its structure, sealed anew."""
    header, rest = split(data)
    header["__metadata__"]["graph"] = text
    return joined(header, rest)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every `(container, key)` below a JSON value."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])
