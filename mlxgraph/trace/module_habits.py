"""Modules exchanged, deleted or looped over by what only names them.

In: a model or a module handle.  Out: an error that says what to write, or a plain answer.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import NoValueError, UnknownSiteError
from mlxgraph.errors.source_line import here
from mlxgraph.graph.site_name import PORTS
from mlxgraph.record.no_value import written


def refuse_exchange(handle: Any, name: str) -> None:
    """Raise for a part of a module that was to be set, or deleted, by its handle."""
    place = written(handle)
    if name.isdigit():
        shown, inside = f"{place}[{name}]", f"{place}.module[{name}]"
    else:
        shown, inside = f"{place}.{name}", f"{place}.module.{name}"
    raise UnknownSiteError(
        name,
        PORTS,
        f"a write to {place}",
        kind="value",
        advice=f"Write `{shown}.output = value` in a block for what it gives. To exchange the"
        f" module itself, set it on the module that you wrapped: `{inside} = module`.",
    )


def set_item(handle: Any, key: Any, value: Any) -> None:
    """`model.layers[2] = value`: a layer is no value, and nothing to exchange."""
    if hasattr(type(value), "parameters"):
        refuse_exchange(handle, str(key))
    place = written(handle)
    if handle._is_list() and isinstance(key, int):
        raise NoValueError(f"{place}[{key}]", str(here()), "{} = value")
    raise NoValueError(place, str(here()), "{}[...] = value")


def no_loop(place: str, instead: str = "") -> NoValueError:
    """The error for a loop over one module, or over a model."""
    return NoValueError(place, str(here()), "for h in {}", instead)


def delete_added(model: Any, name: str) -> None:
    """`del model.probe`: the module that was added under this name is let go of."""
    runner = model._engine.runner
    if name not in runner.added:
        if name in dir(model):
            refuse_exchange(model, name)
        raise UnknownSiteError(name, runner.added, "the model", kind="added module")
    runner.take_away(name)
