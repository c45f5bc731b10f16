"""The fields of a graph on disk, each checked for its type and range before anyone uses it.

In: a plain JSON value, and what it is meant to be.  Out: the value.
Whatever is not that raises GraphFileError, and nothing else ever does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from mlxgraph.errors import GraphFileError
from mlxgraph.graph.check_nodes import shape_fault, site_fault, text_fault
from mlxgraph.graph.site import Site

WORD = 2**64
DEEPEST = 64  # lists in lists
MOST_NESTED = 16  # graphs in graphs


def bad(what: str) -> NoReturn:
    """Refuse the file."""
    raise GraphFileError(what)


def sound(fault: object) -> None:
    """Refuse the file if the verifier has found a fault."""
    if fault:
        bad(str(fault))


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
    parts = row(data, 3, "a site")
    sound(site_fault(*parts))
    return Site(*parts)


def checked_shape(shape: tuple) -> tuple[int, ...]:
    """A shape that an array of MLX can have."""
    sound(shape_fault(shape))
    return shape


def whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is an int in a range (and no bool)."""
    return type(value) is int and least <= value <= most


def text(value: Any, what: str) -> str:
    """A string that can be printed and written."""
    sound(text_fault(value, what))
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
