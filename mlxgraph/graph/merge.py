"""Graphs side by side: merging, and which sites two graphs could both touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlxgraph.errors import MergeError
from mlxgraph.graph.algebra import is_graph, sequence
from mlxgraph.graph.pattern import may_meet
from mlxgraph.graph.site import MODEL_OUTPUT, Site
from mlxgraph.graph.step import Edit

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


def _check_disjoint(first: Graph, second: Graph) -> None:
    """Compare what is written with what is touched; patterns conflict where they could meet."""
    for written, others in ((written_places(first), touched(second)),
                            (written_places(second), touched(first))):  # fmt: skip
        for path, port in sorted(written):
            for other, its_port in sorted(others):
                if port == its_port and may_meet(path, other):
                    raise MergeError(
                        f"both graphs touch {path or MODEL_OUTPUT}.{port}, and one writes it.\n"
                        "  Write `g1 >> g2` to say which comes first, or"
                        " merge(..., on_conflict='sequence')."
                    )


def written_places(graph: Graph) -> set[tuple[str, str]]:
    """The paths or patterns that a graph writes, with their ports."""
    places = {(site.path, _port(site)) for site, _ in graph.writes}
    for step in graph.then:
        if is_graph(step):
            places |= written_places(step)
        elif isinstance(step, Edit):
            places.add((step.pattern, "heads" if step.heads else step.port.rstrip("s")))
    return places


def touched(graph: Graph) -> set[tuple[str, str]]:
    """The paths or patterns that a graph reads or writes, with their ports."""
    places = {(site.path, _port(site)) for site in graph.sites}
    for step in graph.then:
        if is_graph(step):
            places |= touched(step)
        else:
            heads = getattr(step, "heads", None)
            places.add((step.pattern, "heads" if heads else step.port.rstrip("s")))
    return places


def _port(site: Site) -> str:
    """The port without its call, and `input` for all inputs."""
    call = f"#{site.call}" if site.call else ""
    return site.port.rstrip("s") + call
