"""Entries of nested values in the words of errors: which there are, and how an array is reached."""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import NoEntryError
from mlxgraph.errors.source_line import here
from mlxgraph.graph.nested import entries, has_attributes
from mlxgraph.mlx_facts.originals import ARRAY


def entry_key(template: Any, key: Any, what: str, shown: str) -> Any:
    """The key of a dict's entry, or the number of a sequence's.

    Args: what, shown: what is indexed, and what it holds, for the error.
    Raises: NoEntryError.
    """
    if isinstance(template, dict):
        if _is_in(key, template):
            return key
    elif type(key) is not bool and hasattr(type(key), "__index__") and not _has_axes(key):
        number = key.__index__()
        if -len(template) <= number < len(template):
            return number % len(template)
    raise NoEntryError(what, shown, key, _there_is(template), _meant(template, key), str(here()))


def to_first_array(template: Any) -> str:
    """How the first array of a nested value is reached: `[0]['a']`; `[0]` where there is none."""
    return _to_first_array(template) or "[0]"


def _to_first_array(template: Any) -> str | None:
    for key, item in entries(template):
        step = f".{key}" if has_attributes(template) else f"[{key!r}]"
        if isinstance(item, ARRAY):
            return step
        rest = _to_first_array(item)
        if rest is not None:
            return step + rest
    return None


def _is_in(key: Any, template: dict) -> bool:
    try:
        return key in template
    except TypeError:  # a list or a slice is no key
        return False


def _has_axes(key: Any) -> bool:
    return bool(getattr(key, "ndim", 0))


def _there_is(template: Any) -> str:
    if isinstance(template, dict):
        return ", ".join(map(repr, template))
    return ", ".join(map(str, range(len(template))))


def _meant(template: Any, key: Any) -> str:
    """The way to an entry of that name further in; else, for an index of an array, to an array."""
    for outer, item in entries(template):
        if isinstance(item, dict) and _is_in(key, item):
            return f"[{outer!r}][{key!r}]"
    if isinstance(key, (tuple, slice, type(None))) or key is Ellipsis or _has_axes(key):
        return f"{to_first_array(template)}[...]"
    return ""
