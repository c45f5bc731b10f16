"""What two graphs do differently."""

from __future__ import annotations

from typing import Any, NamedTuple

from mlxgraph.graph.base import G, GraphBase, canonical
from mlxgraph.graph.deferred import is_graph
from mlxgraph.graph.node import Node


class Diff(NamedTuple):
    """What two graphs do differently.  Empty (and false) when they are equal."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return any(self)

    def __str__(self) -> str:
        lines = [f"- {line}" for line in self.only_first]
        lines += [f"+ {line}" for line in self.only_second]
        lines += [f"~ {line}" for line in self.changed]
        return "\n".join(lines) or "no difference"


def difference(first: GraphBase, second: GraphBase) -> Diff:
    """Writes, saves and deferred edits that one graph has and the other has not, or not so."""
    first, second = canonical(first), canonical(second)
    one, two = _deeds(first), _deeds(second)
    return Diff(
        tuple(what for what in one if what not in two),
        tuple(what for what in two if what not in one),
        tuple(what for what in one if what in two and one[what] != two[what]),
    )


def _deeds(graph: GraphBase) -> dict[str, Any]:
    """Each write, save and deferred edit by its name, with what it does as its value."""
    deeds: dict[str, Any] = {}
    for site, node in graph.writes:
        deeds[f"write {site}"] = _alone(node, graph)
    for name, node in graph.saves:
        deeds[f"save {name!r}"] = _alone(node, graph)
    for index, one in enumerate(graph.then):
        deeds[f"then {index}: {one!r}" if is_graph(one) else str(one)] = one
    return deeds


def _alone(node: Node, graph: G) -> G:
    """A node as a graph of its own, so that constants count by what they are."""
    return canonical(graph.replace(writes=(), saves=[("value", node)], then=()))
