"""What a graph is made of, and when two are equal: all that functions on graphs rest on.

`Graph` is this and its methods; the functions behind the methods (algebra, merge, diff, listing,
picture, check, the file format) are written on this page's class, so that none of them needs to
know `Graph` itself.

    writes      ((site, node), ...)   each site at most once
    saves       ((name, node), ...)
    then        deferred edits and reads, resolved on a model after the writes, in order
    constants   the arrays and numbers from outside, by their index in the nodes
    notes       for people: where each node was recorded, its shape and dtype
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self, TypeVar

from mlxgraph.graph import ops
from mlxgraph.graph.node import Node, site_of, structure, substitute, walk
from mlxgraph.graph.site import Site

FIELDS = ("writes", "saves", "constants", "notes", "then")


class Note(NamedTuple):
    """What a person wants to know of a node.  Never part of equality."""

    where: str = ""
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


class GraphBase:
    """The fields of a graph, what follows from them, and equality.

    Two graphs are equal when they would do the same to a model: the same structure and the same
    numbers.  The arrays that were lifted from outside are inputs, so the same edit with another
    vector is an equal graph; `same_arrays` tells those apart.
    """

    __slots__ = (*FIELDS, "_hash", "_form", "_params", "_resolved", "__weakref__")
    writes: tuple[tuple[Site, Node], ...]
    saves: tuple[tuple[str, Node], ...]
    constants: tuple[Any, ...]
    notes: Mapping[Node, Note]
    then: tuple[Any, ...]  # of Edit, Read and graphs
    _hash: int | None
    _params: tuple[Node, ...] | None
    _resolved: bool | None  # see `graph.deferred`
    _form: Self | bool  # the canonical graph; True if this is it, False if nobody asked yet

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
        put(self, "_params", None)
        put(self, "_resolved", None)

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
        found = dict.fromkeys(site_of(node) for node in self.nodes() if node.op == ops.SITE)
        found.update(dict.fromkeys(site for site, _ in self.writes))
        return tuple(found)

    @property
    def params(self) -> tuple[str, ...]:
        """The names of the holes, in order of appearance."""
        names = [node.args[0] for node in param_nodes(self)]
        for deferred in self.then:
            names += getattr(deferred, "params", ())
        return tuple(dict.fromkeys(names))

    def replace(self, **fields: Any) -> Self:
        """The graph with some of its fields exchanged."""
        whole = {name: getattr(self, name) for name in FIELDS}
        return type(self)(**{**whole, **fields})

    # -- equality -----------------------------------------------------------------------------

    @property
    def key(self) -> tuple:
        """What decides what the graph does; the order of writes and of saves does not."""
        form = self._canonical()
        return frozenset(form.writes), frozenset(form.saves), form.then

    def _canonical(self) -> Self:
        """The graph with its constants numbered by their use: what is compared."""
        if self._form is False:
            form = canonical(self)
            object.__setattr__(self, "_form", form is self or form)
        return self if self._form is True else self._form  # type: ignore[return-value]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GraphBase):
            return NotImplemented
        if self is other:
            return True
        if hash(self) != hash(other):
            return False
        if self.writes == other.writes and self.saves == other.saves and self.then == other.then:
            if _same_numbers(self.constants, other.constants):
                return True  # as it stands, which is how the same block is recorded again
        one, two = self._canonical(), other._canonical()
        return (
            dict(one.writes) == dict(two.writes)
            and dict(one.saves) == dict(two.saves)
            and one.then == two.then
            and one._numbers() == two._numbers()
        )

    def __hash__(self) -> int:
        """A hash of what the graph says: equal graphs that never lived at one time hash alike.

        Each node keeps its own, so this costs a few pointers for each write and save, once every
        node has been asked; the first graph that holds a node pays for it (some 3 µs a node).
        """
        if self._hash is None:
            writes = frozenset([(site, structure(node)) for site, node in self.writes])
            saves = frozenset([(name, structure(node)) for name, node in self.saves])
            object.__setattr__(self, "_hash", hash((writes, saves, self.then)))
        return self._hash  # type: ignore[return-value]

    def _numbers(self) -> dict[int, tuple[str, str]]:
        used = sorted(node.args[0] for node in self.nodes() if node.op == ops.NUMBER)
        return {k: _number(self.constants[k]) for k in used}

    def same_arrays(self, other: GraphBase) -> bool:
        """Whether an equal graph also holds the very same arrays (by identity)."""
        if self != other:
            return False
        one, two = self._canonical(), other._canonical()
        return all(
            a is b or type(a) is type(b) and isinstance(a, (int, float, complex)) and a == b
            for a, b in zip(one.constants, two.constants, strict=True)
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> Any:
        notes = {node: self.notes.get(node) for node in self.nodes()}
        return type(self), (self.writes, self.saves, self.constants, notes, self.then)


G = TypeVar("G", bound=GraphBase)


def param_nodes(graph: GraphBase) -> tuple[Node, ...]:
    """The holes of a graph: the nodes of its params, in order of appearance, looked for once."""
    found = graph._params
    if found is None:
        found = tuple([node for node in graph.nodes() if node.op == ops.PARAM])
        object.__setattr__(graph, "_params", found)
    return found


def _number(value: Any) -> tuple[str, str]:
    """A number as it is compared: 1, 1.0 and True are three, and so are 0.0 and -0.0."""
    return type(value).__name__, repr(value)


def _same_numbers(one: tuple, other: tuple) -> bool:
    """Whether two graphs' constants are the same numbers, each in its place."""
    return len(one) == len(other) and all(
        a is b or (not _is_number(a) and not _is_number(b)) or _number(a) == _number(b)
        for a, b in zip(one, other, strict=True)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, complex))


# -- the same graph with other nodes --------------------------------------------------------------


class Moved(dict):
    """Notes of nodes that were rebuilt: a new node is known by the one it came from."""

    def __init__(
        self,
        before: Mapping[Node, Note],
        origin: Mapping[Node, Node],
        other: Mapping[Node, Note] | None = None,
    ):
        super().__init__()
        self._before = before
        self._origin = origin
        self._other = other

    def get(self, node: Node, default: Any = None) -> Any:
        found = self._before.get(self._origin.get(node, node))
        if found is None and self._other is not None:
            found = self._other.get(node)
        return default if found is None else found


def rebuilt(graph: G, replace: Callable[[Node], Node | None]) -> G:
    """The graph with every node passed through `replace`; notes go along."""
    new = substitute(graph.roots, replace)
    notes = Moved(graph.notes, {after: before for before, after in new.items()})
    return graph.replace(
        writes=[(site, new[node]) for site, node in graph.writes],
        saves=[(name, new[node]) for name, node in graph.saves],
        notes=notes,
    )


def canonical(graph: G) -> G:
    """The same graph with its constants numbered in the order in which the nodes use them.

    Constants that no node uses are left out.  Two ways of building one program then give equal
    graphs.
    """
    writes = sorted(graph.writes, key=lambda write: site_key(write[0]))
    order: dict[int, int] = {}
    for node in graph.replace(writes=writes, saves=sorted(graph.saves, key=_name)).nodes():
        if node.op in (ops.CONSTANT, ops.NUMBER):
            order.setdefault(node.args[0], len(order))
    if list(order) == list(range(len(graph.constants))) and tuple(writes) == graph.writes:
        return graph
    constants = [graph.constants[k] for k in order]

    def renumber(node: Node) -> Node | None:
        if node.op in (ops.CONSTANT, ops.NUMBER):
            return Node(node.op, (order[node.args[0]], *node.args[1:]))
        return None

    return rebuilt(graph.replace(writes=writes, constants=constants), renumber)


def _name(save: tuple[str, Node]) -> str:
    return save[0]


def site_key(site: Site) -> tuple:
    """Sorts sites as people count: layer 2 before layer 10."""
    parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in site.path.split("."))
    return parts, site.port, site.call
