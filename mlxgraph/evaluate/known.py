"""Values that are known without a forward: what is made of constants, numbers and params alone.

In: nodes, what the sources among them are worth.  Out: the values of those that can be told.
Never: calls a function of the user's or a module, or draws.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mlxgraph.evaluate.values import NodeFailure, Values, source_values
from mlxgraph.graph import ops
from mlxgraph.graph.node import Node, is_draw, walk

_OF_THE_RUN = frozenset({ops.SITE, ops.GRAD, ops.APPLY, ops.CALL})


def made_of_sources(
    nodes: Iterable[Node], given: Collection[Node] = (), but: Collection[Node] = ()
) -> list[Node]:
    """Those of the nodes that depend on nothing that a forward computes.

    Args: given: nodes whose values are known otherwise; but: sources that have no value.
    """
    wanted, known = list(nodes), set(given)
    for node in walk(wanted):
        if node.op in ops.SOURCES and node.op != ops.SITE:
            if node not in but:
                known.add(node)
        elif node.op not in _OF_THE_RUN and not is_draw(node) and node.inputs:
            if known.issuperset(node.inputs):
                known.add(node)
    return [node for node in wanted if node in known]


def known_values(
    nodes: Iterable[Node],
    constants: Sequence[Any],
    params: Mapping[str, Any],
    given: Mapping[Node, Any] | None = None,
) -> dict[Node, Any]:
    """The values of those of the nodes that depend on nothing that a forward computes."""
    given, nodes = given or {}, list(nodes)
    unbound = [n for n in walk(nodes) if n.op == ops.PARAM and n.args[0] not in params]
    found = made_of_sources(nodes, given, unbound)
    sources = [n for n in walk(found) if n not in unbound]
    values = Values({**source_values(sources, constants, params), **given})
    known = {}
    for node in found:
        try:
            known[node] = values[node]
        except NodeFailure:
            continue  # the run says so itself
    return known
