"""Graph: the immutable value that a trace records and everything else works on.

A graph is writes and saves.  A write gives a site a new value; a save keeps a value under a
name.  Both are roots into a web of interned nodes in which nothing is ever changed in place, so
program order is already resolved: what a read saw is the node it holds.

What it is made of, and when two are equal, is in `graph.base`; here are its methods, each a
function of another page.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from mlxgraph.errors import NotAGraphError
from mlxgraph.errors.tracebacks import at_the_edge, of_files, with_edges
from mlxgraph.graph import algebra, picture
from mlxgraph.graph.base import GraphBase, Note
from mlxgraph.graph.diff import Diff, difference
from mlxgraph.graph.file import format as file
from mlxgraph.graph.listing import headline, listing
from mlxgraph.graph.merge import side_by_side

__all__ = ["Graph", "Note", "chain", "diff", "merge"]


class HasGraph(Protocol):
    """What stands for its graph: a finished trace, a compiled pass."""

    @property
    def graph(self) -> Graph: ...


@with_edges
class Graph(GraphBase):
    """Writes and saves, as one value.

    Two graphs are equal when they would do the same to a model: the same structure and the
    same numbers.  The arrays that were lifted from outside are inputs, so the same edit with
    another vector is an equal graph; `same_arrays` tells those apart.
    """

    __slots__ = ()

    # -- algebra (see `graph.algebra`) --------------------------------------------------------

    def __rshift__(self, other: Graph | HasGraph) -> Graph:
        """`g1 >> g2`: first `g1`, then `g2`, which reads what `g1` has written."""
        return algebra.sequence(self, graph_of(other))

    def __rrshift__(self, other: Graph | HasGraph) -> Graph:
        return algebra.sequence(graph_of(other), self)

    def retarget(self, moves: Mapping[str, str]) -> Graph:
        """The graph aimed at other modules: `{old path or prefix: new one}`, all at once.

        Raises: UnknownNameError for a path that the graph does not use, MergeError for moves that
            send two writes to one site.
        """
        return algebra.retarget(self, moves)

    def bind(self, **values: Any) -> Graph:
        """The graph with params filled in: `g.bind(alpha=2.0)`."""
        return algebra.bind(self, values)

    def without(self, site: str) -> Graph:
        """The graph without its writes at a site; deferred edits go by their own pattern.

        Raises: UnknownNameError for a site that the graph does not write.
        """
        return algebra.without(self, site)

    def only(self, site: str) -> Graph:
        """The graph with no writes but those at a site; saves and deferred reads stay.

        Deferred edits go by their own pattern.  A graph among what is deferred is cut as well.
        Raises: UnknownNameError for a site that the graph does not write.
        """
        return algebra.only(self, site)

    def explain(self, model: Any, *inputs: Any, **kwargs: Any) -> str:
        """What each rewrite makes of the graph, and what a run on `model` will do."""
        return model.explain(self, *inputs, **kwargs)

    # -- on disk, and to look at (see `graph.file`, `listing` and `picture`) --------------

    @of_files
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to one file, in safetensors layout: its structure as JSON, its arrays.

        The file appears whole or not at all; one that is there already is replaced.
        Raises: OpaqueError for a Python function that was not recorded, with its name and line;
            GraphFileError for what a file cannot hold; OSError as `open` does.

        Example:
            >>> quiet = mg.edit("layers.*.mlp", iv.scale(0.5))
            >>> quiet.save("quiet.mlxg")
            >>> mg.Graph.load("quiet.mlxg") == quiet
            True
        """
        file.save(self, path)

    @classmethod
    @of_files
    def load(cls, path: str | os.PathLike[str]) -> Graph:
        """Read a graph that `save` has written.  It equals what was saved, with the same arrays.

        No code is run and nothing is imported: operations are looked up in a closed table.
        Raises: GraphFileError for a file that is malformed, cut, changed, or of a newer version;
            FileNotFoundError, and other OSErrors, as `open` does.
        """
        return file.load(path, cls)

    def to_mermaid(self) -> str:
        """The graph as a Mermaid flowchart, for Markdown pages that draw them."""
        return picture.mermaid(self)

    def to_dot(self) -> str:
        """The graph in Graphviz' DOT language."""
        return picture.dot(self)

    def _repr_html_(self) -> str:
        return picture.html(self)

    def __str__(self) -> str:
        return listing(self)

    def __repr__(self) -> str:
        return f"<{headline(self).capitalize()}>"


def of_graph(name: str) -> str:
    """What to write in place of an attribute that a trace lacks and its graph has, or nothing."""
    if not callable(getattr(Graph, name, None)) and name not in ("writes", "params"):
        return ""
    return f"Write t.graph.{name}: the graph is what was recorded."


def graph_in(value: Any) -> Graph | None:
    """The graph itself, or that of a trace or a compiled pass; None of anything else."""
    if isinstance(value, Graph):
        return value
    is_property = isinstance(getattr(type(value), "graph", None), property)
    found = value.graph if is_property else getattr(value, "__dict__", {}).get("graph")
    return found if isinstance(found, Graph) else None


def graph_of(value: Any) -> Graph:
    """The graph in a value.  Raises: NotAGraphError where there is none."""
    graph = graph_in(value)
    if graph is None:
        raise NotAGraphError(value)
    return graph


@at_the_edge
def chain(*graphs: Graph | HasGraph) -> Graph:
    """`g1 >> g2 >> ...`; of no graphs at all, the empty graph."""
    whole = Graph()
    for graph in graphs:
        whole = whole >> graph_of(graph)
    return whole


@at_the_edge
def merge(*graphs: Graph | HasGraph, on_conflict: str = "error") -> Graph:
    """Graphs side by side, none of which reads or writes what another writes.

    Args: on_conflict: where two graphs touch a site that one of them writes, `"error"` raises
        MergeError and `"sequence"` lets the later graph see what the earlier one wrote.
    """
    return side_by_side([Graph(), *map(graph_of, graphs)], on_conflict)


@at_the_edge
def diff(first: Graph | HasGraph, second: Graph | HasGraph) -> Diff:
    """What two graphs do differently; false when they are equal."""
    return difference(graph_of(first), graph_of(second))
