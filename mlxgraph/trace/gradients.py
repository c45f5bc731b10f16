"""Gradients that cannot be anything but zero: a loss that is not reached from where it is taken.

In: a recorded graph and what its forward visits.  Out: nothing, or an error on the user's line.
What the model itself leaves out (its queries do not depend on its keys) only a run can tell; that
is asked by `run.gradient`, and said here.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlxgraph.errors import GradientError
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.listing import brief
from mlxgraph.graph.node import Node, site_of, walk
from mlxgraph.graph.site import SCOPE, Site


def check_gradients(graph: Graph, census: Census) -> None:
    """Raise where a loss cannot depend on the value that its gradient is taken at.

    A model carries what is written or read at a site to the later sites of the same prompt, and
    to no others.

    Raises: GradientError.
    """
    nodes = graph.nodes()
    for node in nodes:
        if node.op == ops.GRAD and not _reaches(node.args[0], node.args[1], graph, census):
            raise no_gradient(node, graph)


def no_gradient(node: Node, graph: Graph) -> GradientError:
    """A gradient node whose loss does not depend on the value it is taken at."""
    above = [n for n in graph.nodes() if node in n.inputs]  # of one prompt: a part of it
    note = next((found for n in (node, *above) if (found := graph.notes.get(n))), None)
    at = node.args[1]
    where = (note and note.where) or "a deferred edit of the graph"
    return GradientError(
        f"the loss does not depend on {brief(at, graph.constants)}: nothing leads from there to"
        f" it, and there is no gradient.\n  at {where}\n"
        "  Take it at a value that the loss is computed from, and before any copy is made of it."
    )


def _reaches(loss: Node, at: Node, graph: Graph, census: Census) -> bool:
    """Whether anything leads from a node to a loss, through the model or around it."""
    touched = {at}
    since: dict[str, float] = {}  # of each prompt: the site from which on the model carries it
    writes: Mapping[Site, Node] = dict(graph.writes)
    if at.op == ops.SITE:  # also where a write is in the way: that is a zero the user asked for
        _carry(since, site_of(at), census)
    nodes = list(walk([*writes.values(), loss]))
    while True:
        before = dict(since)
        for node in nodes:
            if node.op == ops.SITE:
                site = site_of(node)
                if census.position(site) > since.get(_prompt(site), len(census.order)):
                    touched.add(node)
            elif not touched.isdisjoint(node.inputs):
                touched.add(node)
        for site, node in writes.items():
            if node in touched:
                _carry(since, site, census)
        if loss in touched or since == before:
            return loss in touched


def _carry(since: dict[str, float], site: Site, census: Census) -> None:
    position, prompt = census.position(site), _prompt(site)
    since[prompt] = min(position, since.get(prompt, position))


def _prompt(site: Site) -> str:
    return site.path.partition(":")[0] if site.path.startswith(SCOPE) else ""
