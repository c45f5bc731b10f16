"""Graph: the immutable value that a trace records and everything else works on.

A graph is writes and saves.  A write gives a site a new value; a save keeps a value under a
name.  Both are roots into a web of interned nodes in which nothing is ever changed in place, so
program order is already resolved: what a read saw is the node it holds.

    writes      ((site, node), ...)   each site at most once
    saves       ((name, node), ...)
    then        edits and reads by pattern, to be resolved on a model after the writes, in order
    constants   the arrays and numbers from outside, by their index in the nodes
    notes       for people: where each node was recorded, its shape and dtype
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mlxgraph.graph import algebra, picture
from mlxgraph.graph.diff import Diff, difference
from mlxgraph.graph.file import format as file
from mlxgraph.graph.listing import headline, listing
from mlxgraph.graph.merge import side_by_side
from mlxgraph.graph.node import NUMBER, PARAM, SITE, Node, site_of, walk
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import map_frozen

FIELDS = ("writes", "saves", "constants", "notes", "then")


class Note(NamedTuple):
    """What a person wants to know of a node.  Never part of equality."""

    where: str = ""
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


class Graph:
    """Writes and saves, as one value.

    Two graphs are equal when they would do the same to a model: the same structure and the
    same numbers.  The arrays that were lifted from outside are inputs, so the same edit with
    another vector is an equal graph; `same_arrays` tells those apart.
    """

    __slots__ = ("writes", "saves", "constants", "notes", "then", "_hash", "_form", "__weakref__")
    writes: tuple[tuple[Site, Node], ...]
    saves: tuple[tuple[str, Node], ...]
    constants: tuple[Any, ...]
    notes: Mapping[Node, Note]
    _hash: int | None
    _form: Graph | bool  # the canonical graph; True if this is it, False if nobody asked yet
    then: tuple[Any, ...]  # of Edit, Read and Graph

    def __init__(
        self,
        writes: Iterable[tuple[Site, Node]] = (),
        saves: Iterable[tuple[str, Node]] = (),
        constants: Iterable[Any] = (),
        notes: Mapping[Node, Note] | None = None,
        then: Iterable[Any] = (),
    ):
        put = object.__setattr__
        put(self, "writes", tuple(writes))
        put(self, "saves", tuple(saves))
        put(self, "constants", tuple(constants))
        put(self, "notes", notes if notes is not None else {})
        put(self, "then", tuple(then))
        put(self, "_hash", None)
        put(self, "_form", False)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Graph is immutable; build another one instead of setting {name!r}")

    @property
    def roots(self) -> tuple[Node, ...]:
        """The written and saved nodes."""
        return tuple([node for _, node in self.writes] + [node for _, node in self.saves])

    def nodes(self) -> list[Node]:
        """Every node, inputs before users."""
        return list(walk(self.roots))

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site that is read or written, in order of appearance."""
        found = dict.fromkeys(site_of(node) for node in self.nodes() if node.op == SITE)
        found.update(dict.fromkeys(site for site, _ in self.writes))
        return tuple(found)

    @property
    def params(self) -> tuple[str, ...]:
        """The names of the holes, in order of appearance."""
        names = [n.args[0] for n in self.nodes() if n.op == PARAM]
        for step in self.then:
            names += getattr(step, "params", ())
        return tuple(dict.fromkeys(names))

    def _numbers(self) -> dict[int, tuple[str, str]]:
        used = sorted(node.args[0] for node in self.nodes() if node.op == NUMBER)
        return {k: (type(self.constants[k]).__name__, repr(self.constants[k])) for k in used}

    def _canonical(self) -> Graph:
        """The graph with its constants numbered by their use: what is compared."""
        if self._form is False:
            form = algebra.canonical(self)
            object.__setattr__(self, "_form", form is self or form)
        return self if self._form is True else self._form  # type: ignore[return-value]

    @property
    def key(self) -> tuple:
        """What decides what the graph does; the order of writes and of saves does not."""
        form = self._canonical()
        return frozenset(form.writes), frozenset(form.saves), form.then

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        if self is other:
            return True
        if hash(self) != hash(other):
            return False
        one, two = self._canonical(), other._canonical()
        return (
            dict(one.writes) == dict(two.writes)
            and dict(one.saves) == dict(two.saves)
            and one.then == two.then
            and one._numbers() == two._numbers()
        )

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", self._structure())
        return self._hash  # type: ignore[return-value]

    def _structure(self) -> int:
        """A hash of what the nodes say, not of who they are: equal graphs that never lived at one
        time have the same."""
        form = self._canonical()
        known: dict[Node, int] = {}

        def leaf(value: Any) -> Any:
            return known[value] if type(value) is Node else value

        for node in walk(form.roots):
            args = map_frozen(node.args, leaf)
            kwargs = tuple([(name, map_frozen(value, leaf)) for name, value in node.kwargs])
            known[node] = hash((node.op, args, kwargs))
        writes = frozenset([(site, known[node]) for site, node in form.writes])
        saves = frozenset([(name, known[node]) for name, node in form.saves])
        return hash((writes, saves, form.then))

    def same_arrays(self, other: Graph) -> bool:
        """Whether an equal graph also holds the very same arrays (by identity)."""
        if self != other:
            return False
        one, two = self._canonical(), other._canonical()
        return all(
            a is b or type(a) is type(b) and isinstance(a, (int, float, complex)) and a == b
            for a, b in zip(one.constants, two.constants, strict=True)
        )

    def __copy__(self) -> Graph:
        return self

    def __deepcopy__(self, memo: Any) -> Graph:
        return self

    def __reduce__(self) -> Any:
        notes = {node: self.notes.get(node) for node in self.nodes()}
        return Graph, (self.writes, self.saves, self.constants, notes, self.then)

    def replace(self, **fields: Any) -> Graph:
        """The graph with some of its fields exchanged."""
        whole = {name: getattr(self, name) for name in FIELDS}
        return Graph(**{**whole, **fields})

    # -- algebra (see `graph.algebra`) --------------------------------------------------------

    def __rshift__(self, other: Graph) -> Graph:
        """`g1 >> g2`: first `g1`, then `g2`, which reads what `g1` has written."""
        return algebra.sequence(self, other) if isinstance(other, Graph) else NotImplemented

    def retarget(self, places: Mapping[str, str]) -> Graph:
        """The graph aimed at other modules: `{old path or prefix: new one}`."""
        return algebra.retarget(self, places)

    def bind(self, **values: Any) -> Graph:
        """The graph with params filled in: `g.bind(alpha=2.0)`."""
        return algebra.bind(self, values)

    def without(self, site: str) -> Graph:
        """The graph without its writes at a site."""
        return algebra.without(self, site)

    def only(self, site: str) -> Graph:
        """The graph with no writes but those at a site."""
        return algebra.only(self, site)

    def explain(self, model: Any, *inputs: Any, **kwargs: Any) -> str:
        """What each rewrite pass makes of the graph, and what a run on `model` will do."""
        return model.explain(self, *inputs, **kwargs)

    # -- on disk, and to look at (see `graph.file`, `graph.text`, `graph.picture`) --------------

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
        file.save(self, path, Graph, Note)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Graph:
        """Read a graph that `save` has written.  It equals what was saved, with the same arrays.

        No code is run and nothing is imported: operations are looked up in a closed table.
        Raises: GraphFileError for a file that is malformed, cut, changed, or of a newer version;
            FileNotFoundError, and other OSErrors, as `open` does.
        """
        return file.load(path, Graph, Note)

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


def chain(*graphs: Graph) -> Graph:
    """`g1 >> g2 >> ...`; of no graphs at all, the empty graph."""
    whole = Graph()
    for graph in graphs:
        whole = whole >> graph
    return whole


def merge(*graphs: Graph, on_conflict: str = "error") -> Graph:
    """Graphs side by side, none of which reads what another writes.

    Args: on_conflict: where two graphs touch a site that one of them writes, `"error"` raises
        MergeError and `"sequence"` lets the later graph see what the earlier one wrote.
    """
    return side_by_side([Graph(), *graphs], on_conflict)


def diff(first: Graph, second: Graph) -> Diff:
    """What two graphs do differently; false when they are equal."""
    return difference(first, second)
