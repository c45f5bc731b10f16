"""Graphs side by side: merging, and which sites two graphs could both touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlxgraph.errors import MergeError
from mlxgraph.graph.algebra import sequence
from mlxgraph.graph.base import G, GraphBase
from mlxgraph.graph.deferred import Edit, is_graph, site_name
from mlxgraph.graph.pattern import may_meet
from mlxgraph.graph.site import Site
from mlxgraph.graph.site_name import taken_apart


def side_by_side(graphs: Sequence[G], on_conflict: str) -> G:
    """Graphs side by side: none reads or writes what another writes.

    Args: on_conflict: what happens where two graphs touch a site that one of them writes:
        `"error"` raises MergeError, `"sequence"` lets the later graph see the earlier one.
    """
    if on_conflict not in ("error", "sequence"):
        raise MergeError(
            f"on_conflict is 'error' or 'sequence', not {on_conflict!r}.\n"
            "  Write merge(a, b), or merge(a, b, on_conflict='sequence')."
        )
    whole = graphs[0]
    for graph in graphs[1:]:
        if on_conflict == "error":
            _check_disjoint(whole, graph)
        whole = sequence(whole, graph)
    return whole


class Ports(NamedTuple):
    """Paths and ports: of sites, and of deferred edits and reads, whose patterns may mean many."""

    sites: set[tuple[str, str]]
    patterns: set[tuple[str, str]]


def _check_disjoint(first: GraphBase, second: GraphBase) -> None:
    """Compare what is written with what is touched; patterns conflict where they could meet."""
    clash = _shared(written(first), touched(second))
    clash |= _shared(written(second), touched(first))
    if clash:
        path, port = min(clash)
        raise MergeError(
            f"both graphs touch {Site(path, port).spoken}, and one writes it.\n"
            "  Write `g1 >> g2` to say which comes first, or"
            " merge(..., on_conflict='sequence')."
        )


def _shared(written: Ports, others: Ports) -> set[tuple[str, str]]:
    """What is written and is, or could be, among the others; linear where all are sites."""
    found = written.sites & others.sites
    found |= {one for one in written.sites for other in others.patterns if _meet(one, other)}
    return found | {
        one
        for one in written.patterns
        for other in (*others.sites, *others.patterns)
        if _meet(one, other)
    }


def _meet(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return one[1] == other[1] and may_meet(one[0], other[0])


def written(graph: GraphBase) -> Ports:
    """What a graph writes."""
    found = Ports({(site.path, _port(site)) for site, _ in graph.writes}, set())
    for deferred in graph.then:
        if is_graph(deferred):
            _add(found, written(deferred))
        elif isinstance(deferred, Edit):
            found.patterns.add(_deferred_port(deferred))
    return found


def touched(graph: GraphBase) -> Ports:
    """What a graph reads or writes."""
    found = Ports({(site.path, _port(site)) for site in graph.sites}, set())
    for deferred in graph.then:
        if is_graph(deferred):
            _add(found, touched(deferred))
        else:
            found.patterns.add(_deferred_port(deferred))
    return found


def _add(found: Ports, more: Ports) -> None:
    found.sites.update(more.sites)
    found.patterns.update(more.patterns)


def _deferred_port(deferred: Any) -> tuple[str, str]:
    name = taken_apart(site_name(deferred))
    return name.module, "heads" if getattr(deferred, "heads", None) else name.tail


def _port(site: Site) -> str:
    """The port without its call, and `input` for all inputs."""
    call = f"#{site.call}" if site.call else ""
    return site.port.rstrip("s") + call
