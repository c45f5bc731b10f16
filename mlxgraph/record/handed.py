"""Copies of weights that a block was handed: writing into one would change nothing, in silence.

In: an array, and what it is called.  Out: an error, where the array is written into while its
block is open.  Never: keeps an array alive.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

from mlxgraph.errors import WeightError
from mlxgraph.errors.source_line import here

HANDED: dict[int, tuple[Any, Any, str, str]] = {}  # by the identity of the copy


def hand_out(array: Any, recording: Any, name: str, module: str) -> Any:
    """The array, known from here on as a copy of a module's weight."""
    for key, (copy, block, _, _) in list(HANDED.items()):
        if copy() is None or block() is None or not block().open:
            HANDED.pop(key, None)
    HANDED[id(array)] = (ref(array), ref(recording), name, module)
    return array


def refuse_handed(array: Any) -> None:
    """Raise WeightError for a copy whose block is open."""
    copy, block, name, module = HANDED.get(id(array), (_nothing, _nothing, "", ""))
    if copy() is array and block() is not None and block().open:
        raise WeightError(name, module, str(here()), entry=True)


def _nothing() -> None:
    return None
