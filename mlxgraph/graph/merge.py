"""Graphs side by side: merging, and which sites two graphs could both touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlxgraph.errors import MergeError
from mlxgraph.graph.algebra import is_graph, sequence
from mlxgraph.graph.deferred import Edit
from mlxgraph.graph.pattern import may_meet
from mlxgraph.graph.site import MODEL_OUTPUT, Site

if TYPE_CHECKING:
    from mlxgraph.graph.graph import Graph


def side_by_side(graphs: Sequence[Graph], on_conflict: str) -> Graph:
    """Graphs side by side: none reads what another writes.

    Args: on_conflict: what happens where two graphs touch a site that one of them writes:
        `"error"` raises MergeError, `"sequence"` lets the later graph see the earlier one.
    """
    if on_conflict not in ("error", "sequence"):
        raise ValueError(f"on_conflict is 'error' or 'sequence', not {on_conflict!r}")
    whole = graphs[0]
    for graph in graphs[1:]:
        if on_conflict == "error":
            _check_disjoint(whole, graph)
        whole = sequence(whole, graph)
    return whole


class Places(NamedTuple):
    """Paths and ports: of sites, each of them one place, and of steps, which may mean many."""

    sites: set[tuple[str, str]]
    steps: set[tuple[str, str]]


def _check_disjoint(first: Graph, second: Graph) -> None:
    """Compare what is written with what is touched; patterns conflict where they could meet."""
    clash = _shared(written_places(first), touched(second))
    clash |= _shared(written_places(second), touched(first))
    if clash:
        path, port = min(clash)
        raise MergeError(
            f"both graphs touch {path or MODEL_OUTPUT}.{port}, and one writes it.\n"
            "  Write `g1 >> g2` to say which comes first, or"
            " merge(..., on_conflict='sequence')."
        )


def _shared(written: Places, others: Places) -> set[tuple[str, str]]:
    """The written places that are, or could be, among the others; linear where all are sites."""
    found = written.sites & others.sites
    found |= {one for one in written.sites for other in others.steps if _meet(one, other)}
    return found | {
        one
        for one in written.steps
        for other in (*others.sites, *others.steps)
        if _meet(one, other)
    }


def _meet(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return one[1] == other[1] and may_meet(one[0], other[0])


def written_places(graph: Graph) -> Places:
    """What a graph writes."""
    places = Places({(site.path, _port(site)) for site, _ in graph.writes}, set())
    for step in graph.then:
        if is_graph(step):
            _add(places, written_places(step))
        elif isinstance(step, Edit):
            places.steps.add(_step_place(step))
    return places


def touched(graph: Graph) -> Places:
    """What a graph reads or writes."""
    places = Places({(site.path, _port(site)) for site in graph.sites}, set())
    for step in graph.then:
        if is_graph(step):
            _add(places, touched(step))
        else:
            places.steps.add(_step_place(step))
    return places


def _add(places: Places, more: Places) -> None:
    places.sites.update(more.sites)
    places.steps.update(more.steps)


def _step_place(step: Any) -> tuple[str, str]:
    heads = getattr(step, "heads", None)
    return step.pattern, "heads" if heads else step.port.rstrip("s")


def _port(site: Site) -> str:
    """The port without its call, and `input` for all inputs."""
    call = f"#{site.call}" if site.call else ""
    return site.port.rstrip("s") + call
