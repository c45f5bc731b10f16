"""Graphs without a block: `mg.edit`, `mg.read`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mlxgraph.errors import InputError, InterventionError, StepError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph.deferred import Edit, Read, function_name
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.pattern import compiled, is_pattern
from mlxgraph.graph.site import OUTPUT
from mlxgraph.graph.site_name import site_text, taken_apart
from mlxgraph.record.apply import check_function
from mlxgraph.trace.module_handle import ModuleHandle


@at_the_edge
def edit(
    sites: str | ModuleHandle,
    function: Callable[[Any], Any],
    *,
    positions: int | slice | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    expect: int | None = None,
) -> Graph:
    """A graph that applies a function to every matching module's output.  Needs no model.

    Args:
        sites: a module's name in any form, or a pattern: `layers.*.mlp`, `layers.[4-8]`,
            `**.q_proj`; or a module handle.  `.input` at the end means the module's first
            argument, `.calls[1]` its second call in one forward.
        function: of one array, of the output's shape or that of the part that is chosen.
        positions: the positions of the sequence to edit, whichever axis they are; all if left
            out.  They count from each row's real ends, whatever the padding, and the function
            sees them alone; rows that have different numbers of them come one by one.
        heads: for an attention module: the heads whose outputs, before the output projection,
            are edited; the function sees (batch, length, heads, head dimension).
        expect: how many modules must match; another number raises CountError on use.

    Raises: PatternError (a ValueError) for a pattern that is none, InterventionError (a TypeError)
        for a function that is none.  On use: UnknownSiteError, CountError, NeverCalledError,
        HeadsError, and BoundsError for a head or a position.

    Example:
        >>> quiet = mg.edit("layers.*.mlp", iv.scale(0.5), positions=-1)
        >>> model.run(quiet >> mg.read("layers.3", name="h"), "The capital of France is")["h"]
    """
    name, port = _parsed(sites)
    check_function(function, "what mg.edit was given")
    chosen = _numbers(heads, "heads")
    heads = (chosen,) if isinstance(chosen, int) else chosen
    if isinstance(positions, slice):
        if positions.step == 0:
            raise StepError("the positions", str(here()))
    else:
        positions = _numbers(positions, "positions")
    _check_expect(expect)
    return Graph(then=[Edit(name, function, positions, heads, expect, port, str(here()))])


@at_the_edge
def read(sites: str | ModuleHandle, name: str | None = None, *, expect: int | None = None) -> Graph:
    """A graph that saves every matching module's output.

    Args:
        sites, expect: as for `edit`.
        name: what the save is called; several matches are called `name.path`.  Without a name
            each goes by its site, and an `.input` by `item`.

    Raises: PatternError (a ValueError) for a pattern that is none.  On use: UnknownSiteError,
        CountError, NeverCalledError.
    """
    if name is not None and not isinstance(name, str):
        given = function_name(name) if callable(name) else f"a {type(name).__name__}"
        raise InputError(
            f"what is read is saved under a text, not {given}.\n"
            "  Write mg.read(sites, name='h'); mg.edit(sites, function) edits."
        )
    _check_expect(expect)
    pattern, port = _parsed(sites)
    return Graph(then=[Read(pattern, name, expect, port, str(here()))])


def _check_expect(expect: Any) -> None:
    if expect is not None and not hasattr(type(expect), "__index__"):
        raise InputError(
            f"expect= is how many modules match, not a {type(expect).__name__}.\n"
            "  Write expect=6, or leave it out."
        )


def _numbers(given: Any, what: str) -> int | tuple[int, ...] | None:
    """One whole number or several, from whatever kind of sequence or array."""
    if given is None:
        return None
    with suppress(TypeError):
        return _number(given)
    with suppress(TypeError):
        return tuple([_number(k) for k in getattr(given, "tolist", lambda: given)()])
    raise InterventionError(
        f"{what}={given!r} are no whole numbers.\n"
        f"  Write {what}=-1, {what}=[0, 3] or leave it out; of a mask, np.flatnonzero(mask)."
    )


def _number(given: Any) -> int:
    if isinstance(given, bool):  # Python would take True for 1
        raise TypeError
    return operator.index(given)


def _parsed(sites: str | ModuleHandle) -> tuple[str, str]:
    """Pattern and port; a bad pattern is refused here, on the user's line."""
    name = site_text(sites)
    module, _, port, _ = taken_apart(name)
    if is_pattern(module):
        compiled(module)
    return (name.removesuffix(f".{port}"), port) if port not in ("", OUTPUT) else (name, OUTPUT)
