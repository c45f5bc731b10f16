"""What every handle can do: say what it is, refuse when its block is over, be written and saved.

A handle knows its recording, its node, and how it was reached: `_base` and `_step` for a view of
another handle, `_cell` for the whole value of a site.  Proxies, nests and params are handles.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import NotSavedError, UnboundParamError
from mlxgraph.graph.listing import brief
from mlxgraph.record.views import Step

SLOTS = ("_recording", "_node", "_base", "_step", "_cell", "_epoch", "_synced", "_result")
HANDLES: set[type] = set()


def open_recording(handle: Any) -> Any:
    recording = handle._recording
    if not recording.open:
        refuse(handle)
    return recording


def refuse(handle: Any) -> None:
    """Say why a handle cannot be used after its block."""
    if handle._recording.unbound:
        raise UnboundParamError(handle._recording.unbound)
    raise NotSavedError(handle._describe(), handle._birth())


def describe(handle: Any) -> str:
    if handle._cell is not None and handle._base is None:
        return str(handle._cell.site)
    return brief(handle._node, handle._recording.constants)


def birth(handle: Any) -> str:
    return str(handle._recording.places.get(handle._node, "an unknown line"))


def set_item(handle: Any, step: Step, value: Any) -> None:
    recording = open_recording(handle)
    in_place = (
        getattr(type(value), "_is_handle", False)
        and value._base is handle
        and value._step == step
        and value._synced is not None
        and value._synced is handle._node
    )
    if not in_place:  # `h[i] += v` has written through already and now assigns the view
        recording.update(handle, step, value)


def save(handle: Any, name: str | None = None) -> Any:
    """Keep the value as it is at this line; after the block the result is an `mx.array`.

    Args: name: how `trace.saved_values` lists it; a site's own name if left out.
    """
    return open_recording(handle).save(handle, name)


def proxy_in(values: Any) -> Any:
    """The first proxy among arguments, lists and tuples of them included."""
    for value in values:
        kind = type(value)
        if kind in HANDLES:
            return value
        if kind is list or kind is tuple:
            found = proxy_in(value)
            if found is not None:
                return found
        elif kind is dict:
            found = proxy_in(value.values())
            if found is not None:
                return found
    return None
