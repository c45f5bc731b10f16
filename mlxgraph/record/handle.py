"""Handles: what user code holds in a block.  Proxies, nested proxies and params are handles.

A handle knows its recording, the node it stands for, and how it was reached (`_origin`, see
`record.write_through`).  It says what it is, refuses when its block is over, and can be saved.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import (
    InputError,
    LookError,
    NotSavedError,
    PicklingError,
    UnboundParamError,
)
from mlxgraph.errors.source_line import here
from mlxgraph.graph.listing import brief
from mlxgraph.mlx_facts.originals import ARRAY

SLOTS = ("_recording", "_node", "_origin", "_result")
HANDLES: set[type] = set()


def is_handle(value: Any) -> bool:
    """Whether a value is what user code holds of a recorded one."""
    return type(value) in HANDLES


def handle_in(values: Any) -> Any:
    """The first handle among arguments, lists, tuples and dicts of them included; None if none."""
    for value in values:
        kind = type(value)
        if kind in HANDLES:
            return value
        if kind is list or kind is tuple:
            found = handle_in(value)
            if found is not None:
                return found
        elif kind is dict:
            found = handle_in(value.values())
            if found is not None:
                return found
    return None


def open_recording(handle: Any) -> Any:
    """The recording of a handle whose block is open.  Raises: NotSavedError, UnboundParamError."""
    recording = handle._recording
    if not recording.open:
        refuse(handle)
    return recording


def refuse(handle: Any) -> None:
    """Say why a handle cannot be used after its block."""
    if handle._recording.unbound:
        raise UnboundParamError(handle._recording.unbound)
    raise NotSavedError(handle._describe(), handle._birth())


def not_known_yet() -> LookError:
    """The error of a look at what will run on inputs that are not known."""
    return LookError(
        "this value cannot be looked at: what is recorded here runs later, on inputs that are not"
        f" known yet.\n  at {here()}\n  Write mx.where(...) for a choice, mg.apply(fn, h) for a"
        " function that needs values, or save it and look after the block."
    )


def refuse_pickle(handle: Any, protocol: Any) -> Any:
    """Say why a handle cannot be pickled, inside its block or after it."""
    open_recording(handle)
    raise PicklingError(
        handle._describe(),
        "it was not saved, and nothing has run yet",
        "Save it inside the block, and pickle it after the block.",
        str(here()),
    )


def site_of_handle(handle: Any) -> Any:
    """The site whose whole value a handle is; None for a part, and for what was computed."""
    return None if handle._origin is None else handle._origin.site


def result_of(handle: Any) -> Any:
    """What a saved handle is worth, once its block is over."""
    return handle if isinstance(handle, ARRAY) else handle._result


def describe(handle: Any) -> str:
    """A handle as errors name it: its site, or a short expression."""
    site = site_of_handle(handle)
    if site is not None:
        return site.spoken
    return brief(handle._node, handle._recording.constants)


def fate(handle: Any) -> str:
    """What became of a handle whose block is over, for its `repr`; nothing while it is open."""
    recording = handle._recording
    if recording.open:
        return ""
    if recording.unbound:
        return f", not run: it waits for the param {', '.join(recording.unbound)}"
    return ", not saved: its trace is over"


def birth(handle: Any) -> str:
    """The user's line that a handle comes from."""
    return str(handle._recording.line_of(handle._node) or "an unknown line")


def save(handle: Any, name: str | None = None) -> Any:
    """Keep the value as it is at this line; after the block the result is an `mx.array`.

    Args: name: how `trace.saved_values` lists it; left out, a site's value goes by the site, and a
        computed one by its operation.
    """
    if name is not None and not isinstance(name, str):
        raise InputError(
            f"a saved value's name is text, not a {type(name).__name__}.\n  at {here()}\n"
            "  Write h.save('name')."
        )
    return open_recording(handle).save(handle, name)
