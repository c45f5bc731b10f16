"""Between a rank's part of a value and the whole of it, for rooms that do not record.

What is recorded in a block, and what is an array, only the room `record` can tell: it says how.

In: a value.  Out: the whole of it, or this rank's part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ways: dict[str, Callable[[Any, Any], Any]] = {}


def register(gather: Callable[[Any, Any], Any], part: Callable[[Any, Any], Any]) -> None:
    """Say how it is done."""
    _ways.update(gather=gather, part=part)


def gather(value: Any, axis: int) -> Any:
    """`mg.gather`."""
    return _ways["gather"](value, axis)


def part(value: Any, axis: int) -> Any:
    """`mg.part`."""
    return _ways["part"](value, axis)
