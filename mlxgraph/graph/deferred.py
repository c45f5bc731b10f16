"""Deferred edits and reads: those that are still to be resolved, for they go by pattern.

`mg.edit("layers.*.mlp", iv.scale(0.5))` needs no model.  Which sites it means, and what the
function does to a value of their shape, is settled when the graph meets a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mlxgraph.graph.site import OUTPUT
from mlxgraph.graph.site_name import taken_apart
from mlxgraph.graph.stream import is_middle

Positions = int | slice | tuple[int, ...] | None


class Edit(NamedTuple):
    """Apply a function of one array to every matching site.

    `positions` and `heads` restrict it to a part of the sequence or to some attention heads;
    `expect` is how many modules must match.
    """

    pattern: str  # of a module; a written `.output` stays on it, for a module may be called so
    function: Callable[[Any], Any]
    positions: Positions = None
    heads: tuple[int, ...] | None = None
    expect: int | None = None
    port: str = OUTPUT
    where: str = ""

    @property
    def params(self) -> tuple[str, ...]:
        """The holes that the function says it has; others show once the edit is resolved."""
        return tuple(getattr(self.function, "params", ()))

    def _identity(self) -> tuple:
        positions = self.positions
        if isinstance(positions, slice):
            positions = ("slice", positions.start, positions.stop, positions.step)  # type: ignore
        return (self.pattern, self.function, positions, self.heads, self.expect, self.port)

    def __eq__(self, other: object) -> bool:
        return type(other) is Edit and self._identity() == other._identity()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._identity())

    def __str__(self) -> str:
        parts = [_shown(self), function_name(self.function)]
        for name in ("positions", "heads", "expect"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"{name}={_show(value)}")
        return f"edit {parts[0]} with {', '.join(parts[1:])}"


class Read(NamedTuple):
    """Save every matching site's value: under `name`, or as `h.save()` would."""

    pattern: str
    name: str | None = None
    expect: int | None = None
    port: str = OUTPUT
    where: str = ""

    @property
    def params(self) -> tuple[str, ...]:
        """A read has no holes."""
        return ()

    def _identity(self) -> tuple:
        return (self.pattern, self.name, self.expect, self.port)

    def __eq__(self, other: object) -> bool:
        return type(other) is Read and self._identity() == other._identity()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((Read, self._identity()))

    def __str__(self) -> str:
        return f"save {_shown(self)}" + (f" as {self.name!r}" if self.name else "")


def site_name(deferred: Edit | Read) -> str:
    """What an edit or a read is aimed at, as the user wrote it."""
    return deferred.pattern if deferred.port == OUTPUT else f"{deferred.pattern}.{deferred.port}"


def _shown(deferred: Edit | Read) -> str:
    name = site_name(deferred)
    return name if taken_apart(name).port else f"{name}.{OUTPUT}"


def is_graph(value: Any) -> bool:
    """Whether a value is a graph: among what is deferred, there are edits, reads and graphs."""
    return hasattr(value, "writes") and hasattr(value, "saves")


def is_resolved(graph: Any) -> bool:
    """Whether a graph runs on a model as it stands: nothing in it is still to be found there.

    A graph is asked at every run, and its nodes are looked through once.
    """
    known: bool | None = graph._resolved
    if known is None:
        known = not graph.then and not any(is_middle(site.path) for site in graph.sites)
        object.__setattr__(graph, "_resolved", known)
    return known


def function_name(function: Callable[..., Any]) -> str:
    """A function as a person would name it; interventions print themselves."""
    own = type(function).__repr__ is not object.__repr__ and not hasattr(function, "__qualname__")
    return repr(function) if own else getattr(function, "__qualname__", type(function).__name__)


def _show(value: Any) -> str:
    if isinstance(value, slice):
        start, stop = ("" if v is None else v for v in (value.start, value.stop))
        return f"{start}:{stop}"
    return str(list(value) if isinstance(value, tuple) else value)
