"""The fields of a graph on disk, each checked for its type and range before anyone uses it.

In: a plain JSON value, and what it is meant to be.  Out: the value.
Whatever is not that raises GraphFileError, and nothing else ever does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from mlxgraph.errors import GraphFileError
from mlxgraph.graph.site import Site

LARGEST_DIM = 2**31 - 1  # what MLX can index
LARGEST_SIZE = 2**48  # elements of one array
MOST_DIMS = 64
WORD = 2**64


def bad(what: str) -> NoReturn:
    """Refuse the file."""
    raise GraphFileError(what)


def scalar(value: Any) -> Any:
    """A number: an int of one machine word, a float, a bool or a complex."""
    kind = type(value)
    if kind is bool or (kind is float and math.isfinite(value)) or whole(value, -WORD, WORD):
        return value
    if kind is dict:
        tag, inside = only(value)
        if tag == "float" and inside in ("inf", "-inf", "nan"):
            return float(inside)
        if tag == "complex":
            parts = [scalar(part) for part in row(inside, 2, "a complex number")]
            if all(type(part) is float for part in parts):
                return complex(*parts)
    bad(f"{value!r:.40} is no number that a graph holds")


def site(data: list) -> Site:
    """A site, its port and its call in order."""
    path, port, call = row(data, 3, "a site")
    text(path, "a path")
    if not text(port, "a port").isidentifier():
        bad(f"there is no port {port[:40]!r}")
    if not whole(call, 0, LARGEST_DIM):
        bad(f"{call!r:.40} is no call's number")
    return Site(path, port, call)


def checked_shape(shape: tuple) -> tuple[int, ...]:
    """A shape that an array of MLX can have."""
    if len(shape) > MOST_DIMS or not all(whole(dim, 0, LARGEST_DIM) for dim in shape):
        bad("a shape is out of range")
    if math.prod(max(dim, 1) for dim in shape) > LARGEST_SIZE:
        bad("a shape is larger than any array")
    return shape


def whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is an int in a range (and no bool)."""
    return type(value) is int and least <= value <= most


def wholes(values: Sequence[Any], what: str) -> tuple[int, ...]:
    """Numbers of places, from either end."""
    if not all(whole(value, -LARGEST_DIM, LARGEST_DIM) for value in values):
        bad(f"{what} are no numbers of places")
    return tuple(values)


def text(value: Any, what: str) -> str:
    """A string that can be printed and written."""
    if type(value) is not str:
        bad(f"{what} is no text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            bad(f"{what} holds half a character")
    return value


def listed(value: Any, what: str) -> list:
    """A list."""
    return value if type(value) is list else bad(f"{what} is no list")


def row(value: Any, length: int, what: str) -> list:
    """A list of so many entries."""
    if len(listed(value, what)) != length:
        bad(f"{what} has {len(value)} parts and not {length}")
    return value


def record(value: Any, keys: Sequence[str], what: str) -> list[Any]:
    """The values of an object that has exactly these keys."""
    if type(value) is not dict or set(value) != set(keys):
        bad(f"{what} is no object of {', '.join(keys)}")
    return [value[key] for key in keys]


def only(value: dict) -> tuple[str, Any]:
    """The key and value of an object that has one."""
    if len(value) != 1:
        bad("an object has several kinds")
    return next(iter(value.items()))


def unique(items: list[Any], what: str) -> None:
    """Refuse a list that names something twice."""
    if len(set(items)) < len(items):
        bad(f"it has two {what} of one name")
