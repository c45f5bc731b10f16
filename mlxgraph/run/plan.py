"""Plan: what one run will do.

In: a graph and a census.  Out: which sites are read, which are written, where the forward may
stop.  What no save needs is not in the plan: later writes are left out, and the forward's own
Python ends with the last value that somebody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mlxgraph.errors import NeverCalledError, OrderError
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import (
    APPLY,
    CALL,
    CONSTANT,
    GRAD,
    NUMBER,
    PARAM,
    SITE,
    Node,
    site_of,
    walk,
)
from mlxgraph.graph.site import SKIP, Site


class Plan(NamedTuple):
    """The sites that a run stops at, and what it does there."""

    saves: tuple[Node, ...]
    writes: dict[Site, Node]
    read: frozenset[Site]
    stops: frozenset[Site]
    hooked: frozenset[str]
    last: Site | None
    leaves: tuple[Node, ...]
    calls_modules: bool
    opaque: bool
    draws: bool
    gradients: bool


def make_plan(graph: Graph, census: Census, saves: Sequence[Node]) -> Plan:
    """The plan that computes `saves` under the graph's writes.

    Raises: NeverCalledError for a site that this forward does not visit, OrderError for a write
    that needs a later site.
    """
    order = census.order
    needed = {site_of(node) for node in walk(saves) if node.op == SITE}
    for site in (*needed, *(site for site, _ in graph.writes)):
        if not census.visits(site):
            raise NeverCalledError(
                str(site),
                _where(graph, site),
                dict.fromkeys(s.path for s in order),
                census.calls(site.path),
            )
    last = max(needed, key=order.__getitem__, default=None)
    writes = {
        site: node
        for site, node in graph.writes
        if last is not None and census.position(site) < order[last]
    }
    read = set(needed)
    for site, node in writes.items():
        for below in walk([node]):
            if below.op == SITE:
                source = site_of(below)
                if order.get(source, len(order)) > census.position(site):
                    raise OrderError(str(site), str(source), _where(graph, site), "")
                read.add(source)
    skipped = tuple(site.path + "." for site in writes if site.port == SKIP)
    for site in read:
        if skipped and site.path.startswith(skipped):
            reason = "it is part of a module that is skipped in this block."
            raise NeverCalledError(str(site), _where(graph, site), (), reason=reason)
    nodes = list(walk([*saves, *writes.values()]))
    stops = read | set(writes)
    return Plan(
        saves=tuple(saves),
        writes=writes,
        read=frozenset(read),
        stops=frozenset(stops),
        hooked=frozenset(site.path for site in stops),
        last=last,
        leaves=tuple(node for node in nodes if node.op in (CONSTANT, NUMBER, PARAM)),
        calls_modules=any(node.op == CALL for node in nodes),
        opaque=any(node.op == APPLY for node in nodes),
        draws=any(node.op.startswith("mx.random.") for node in nodes),
        gradients=any(node.op == GRAD for node in nodes),
    )


def _where(graph: Graph, site: Site) -> str:
    for written, node in graph.writes:
        if written == site:
            note = graph.notes.get(node)
            return note.where if note else "an edit"
    for node in graph.nodes():
        if node.op == SITE and site_of(node) == site:
            note = graph.notes.get(node)
            return note.where if note else "an edit"
    return "an edit"
