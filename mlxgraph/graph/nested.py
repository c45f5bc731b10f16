"""Nested values: the tuples, lists and dicts of arrays that modules take and return.

Pure shape work.  What counts as a leaf is whatever is not a plain container, so this page knows
nothing of arrays (nor of modules, which are dicts to Python and leaves here).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

_PLAIN = {tuple, list, dict, OrderedDict}


def is_container(value: Any) -> bool:
    """Whether indexing reaches into `value`: a tuple (named or not), list or dict."""
    return type(value) in _PLAIN or (isinstance(value, tuple) and hasattr(value, "_fields"))


def map_nested(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Rebuild a nested value with `leaf` applied to all that is not a container."""
    if not is_container(value):
        return leaf(value)
    if isinstance(value, dict):
        return type(value)((key, map_nested(item, leaf)) for key, item in value.items())
    return _like(value, [map_nested(item, leaf) for item in value])


def map_entries(value: Any, entry: Callable[[Any, Any], Any]) -> Any:
    """Rebuild one container with `entry(key, item)` for each of its items."""
    if isinstance(value, dict):
        return type(value)((key, entry(key, item)) for key, item in value.items())
    return _like(value, [entry(index, item) for index, item in enumerate(value)])


def leaves(value: Any) -> list[Any]:
    """All that is not a container, from left to right."""
    found: list[Any] = []
    map_nested(value, found.append)
    return found


def unflatten(template: Any, items: list[Any]) -> Any:
    """The inverse of `leaves`: `template` with its leaves replaced, from left to right."""
    rest = iter(items)
    return map_nested(template, lambda _: next(rest))


def replace_item(value: Any, key: Any, item: Any) -> Any:
    """A copy of a container with one entry replaced."""
    if isinstance(value, dict):
        return type(value)({**value, key: item})
    items = list(value)
    items[key] = item
    return _like(value, items)


def _like(original: Any, items: list[Any]) -> Any:
    if hasattr(original, "_fields"):
        return type(original)(*items)
    return items if isinstance(original, list) else tuple(items)
