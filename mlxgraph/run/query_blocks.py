"""Which scores and patterns are never wanted whole, but query by query.

A pattern has a number for each pair of tokens.  Of a long text this square is what fills the
memory, and hardly anybody wants it: the last query's row, one key's column, a mean over queries, an
entropy for each.  Where all that is made of it follows query by query, up to a choice of queries or
a sum, a mean, a largest or a smallest over them, it can be computed for a block of queries at a
time (`run.by_query`).

In: what a run wants and writes, a census.  Out: for each attention what is computed in blocks.
In doubt: nothing, and the square is made.  So it is where it is small, where scores or pattern are
written, and where a gradient is taken in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.evaluate.evaluate import evaluate
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.inside import PATTERN, SCORES, parted
from mlxgraph.graph.node import Node, site_of, walk
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.graph.values import FULL, FrozenList, Slice
from mlxgraph.mlx_facts.originals import ARRAY, zeros
from mlxgraph.run.query_index import Pick, Shown, parts_of, taken_by

NAME = "query_blocks"
BLOCK = 2**22  # numbers of scores in a block of queries, 16 MiB in float32: no more is made whole
FEWEST = 8  # queries in a block, however long their rows are
WORTH = 2  # how many times smaller than the square what is wanted has to be
ADDS = frozenset({ops.MX_SUM, ops.MX_MEAN})
JOINS = frozenset({*ADDS, ops.MX_MAX, ops.MX_MIN, ops.MX_ALL, ops.MX_ANY})


class Carried(NamedTuple):
    """A value that has an entry, or a row, for each of some queries.

    Attributes:
        owner: the attention; shape: with all queries; axis: of the queries.
        chosen: which of the attention's queries; None for all of them.
        pick: how they were chosen from the value's argument, if they were in this step.
    """

    owner: Site
    shape: tuple[int, ...]
    axis: int
    chosen: Any = None
    pick: Pick | None = None

    @property
    def queries(self) -> int:
        """How many queries there are."""
        return self.shape[self.axis]

    @property
    def from_right(self) -> int:
        """The axis, counted from the last, which is 1."""
        return len(self.shape) - self.axis


class Wanted(NamedTuple):
    """A value to be put together from blocks.

    Attributes:
        node: the value; of: what it is made of block by block; queries: how many that has.
        chosen: which of the attention's queries these are.
        pick: for one query alone: how it is chosen.
    """

    node: Node
    of: Node
    queries: int
    chosen: Any
    pick: Pick | None = None


class Blocks(NamedTuple):
    """What is made of the scores and the pattern of one attention, in blocks of queries.

    Attributes:
        sites: those of its scores and pattern that are read; carried: every value in between.
        rows: how many queries there are in a block; queries: how many there are.
    """

    sites: tuple[Site, ...]
    carried: Mapping[Node, Carried]
    wanted: tuple[Wanted, ...]
    rows: int
    queries: int


def find_blocks(
    census: Census, saves: Sequence[Node], writes: Mapping[Site, Node]
) -> dict[Site, Blocks]:
    """The attentions whose squares need not be made, by the site of their pattern."""
    roots = [*saves, *writes.values()]
    nodes = list(walk(roots))
    if not census.traceable or any(node.op == ops.GRAD for node in nodes):
        return {}
    seeds: dict[Node, Site] = {}
    for node in nodes:
        owner = _owner(node, census, writes)
        if owner is not None:
            seeds[node] = owner
    if not seeds:
        return {}
    return _Search(census, seeds).found(nodes, set(roots))


def _owner(node: Node, census: Census, writes: Mapping[Site, Node]) -> Site | None:
    """The attention whose large scores or pattern a node is, by the site of its pattern."""
    if node.op != ops.SITE:
        return None
    site = site_of(node)
    module, name = parted(site.path) or ("", "")
    if name not in (SCORES, PATTERN) or site.port != OUTPUT or module in census.written:
        return None
    value = census.values.get(site)
    if not census.is_inside(site) or not isinstance(value, ARRAY) or value.ndim != 4:
        return None
    if value.size <= BLOCK or value.shape[2] < 2:
        return None
    base = site.path.removesuffix(name)
    both = [site._replace(path=base + each) for each in (SCORES, PATTERN)]
    return None if any(each in writes for each in both) else both[1]


class _Search:
    """Follows the values of squares through the nodes that use them."""

    def __init__(self, census: Census, seeds: dict[Node, Site]):
        self.census = census
        self.seeds = seeds
        self.shown = Shown(census)
        self.carried: dict[Node, Carried] = {}
        self.wanted: dict[Site, dict[Node, Wanted]] = {}

    def found(self, nodes: Sequence[Node], roots: set[Node]) -> dict[Site, Blocks]:
        for node, owner in self.seeds.items():
            shape = self.census.values[site_of(node)].shape
            self.carried[node] = Carried(owner, tuple(shape), 2)
            self.wanted[owner] = {}
        for node in nodes:
            if node not in self.seeds:
                self._step(node)
        for node in roots:
            self._whole(node)
        return {owner: self._blocks(owner) for owner in self.wanted if self._is_worth_it(owner)}

    def _step(self, node: Node) -> None:
        """What one node makes of what it is given."""
        given = [child for child in node.inputs if child in self.carried]
        if not given:
            return
        first = self.carried[given[0]]
        if all(self.carried[c][:1] == first[:1] for c in given) and self._knows(node, given):
            made = self._made(node, given)
            if isinstance(made, Carried):
                self.carried[node] = made
                return
            if made is not None:
                self.wanted[first.owner][node] = made
                return
        for child in given:
            self._whole(child)

    def _whole(self, node: Node) -> None:
        """A value that something needs with all of its queries."""
        at = self.carried.get(node)
        if at is not None:
            self.wanted[at.owner][node] = Wanted(node, node, at.queries, at.chosen)

    def _knows(self, node: Node, given: Sequence[Node]) -> bool:
        """Whether all else that a node needs is there before the attention is computed, and the
        shapes are known."""
        start = min(self.census.position(site_of(n)) for n in self.seeds if self._is_of(n, given))
        others = [child for child in node.inputs if child not in self.carried]
        if any(not self.shown.is_there_by(start, other) for other in others):
            return False
        return self.shown.of(node) is not None

    def _is_of(self, seed: Node, given: Sequence[Node]) -> bool:
        return self.seeds[seed] == self.carried[given[0]].owner

    def _is_worth_it(self, owner: Site) -> bool:
        wanted = sum(self.shown.of(node).size for node in self.wanted[owner])
        return wanted * WORTH <= prod(self._square(owner))

    def _square(self, owner: Site) -> tuple[int, ...]:
        seed = next(node for node, of in self.seeds.items() if of == owner)
        shape: tuple[int, ...] = self.census.values[site_of(seed)].shape
        return shape

    def _blocks(self, owner: Site) -> Blocks:
        batch, heads, queries, keys = self._square(owner)
        return Blocks(
            tuple(site_of(node) for node, of in self.seeds.items() if of == owner),
            {node: at for node, at in self.carried.items() if at.owner == owner},
            tuple(self.wanted[owner].values()),
            max(FEWEST, BLOCK // (batch * heads * keys)),
            queries,
        )

    # -- what is separate for each query ----------------------------------------------------------

    def _made(self, node: Node, given: Sequence[Node]) -> Carried | Wanted | None:
        """A value that still has its queries, one that is put together from blocks, or None."""
        at, shape = self.carried[given[0]], tuple(self.shown.of(node).shape)
        if node.op in ops.ELEMENTWISE or node.op == ops.MX_ASTYPE:
            return self._entry_by_entry(given, shape)
        if len(given) > 1 or not node.args or node.args[0] is not given[0]:
            return None
        if node.op in ops.REDUCES or node.op in ops.KEEPS_AXES:
            return _along(node, at, shape)
        if node.op == ops.GETITEM:
            return self._picked(node, at, shape)
        if node.op == ops.MX_MATMUL:
            right = self.shown.of(node.args[1])
            alone = at.from_right == 2 and right.ndim > 1
            return _kept(at, shape, len(shape) - 2) if alone else None
        if node.op in (ops.MX_SWAPAXES, ops.MX_MOVEAXIS, ops.MX_TRANSPOSE):
            signs = tuple(range(2, 2 + len(at.shape)))  # each axis by a length of its own
            turned = evaluate(node, lambda _: zeros(signs)).shape
            return _kept(at, shape, turned.index(signs[at.axis]))
        if node.op in ops.RESHAPES:
            before = prod(at.shape[: at.axis])
            for axis, size in enumerate(shape):
                if size == at.queries > 1 and prod(shape[:axis]) == before:
                    return _kept(at, shape, axis)
        return None

    def _entry_by_entry(self, given: Sequence[Node], shape: tuple[int, ...]) -> Carried | None:
        all_of_them = [self.carried[child] for child in given]
        first = all_of_them[0]
        same = {(at.from_right, at.chosen, at.queries) for at in all_of_them}
        if len(same) > 1 or shape[-first.from_right] != first.queries:
            return None
        return _kept(first, shape, len(shape) - first.from_right)

    def _picked(self, node: Node, at: Carried, shape: tuple[int, ...]) -> Carried | Wanted | None:
        parts = parts_of(node.args[1], len(at.shape))
        if parts is None:
            return None
        axes = [k for k, part in enumerate(parts) if part is not None]
        here = axes[at.axis]
        numbered = [k for k in axes if not isinstance(parts[k], (int, Slice))]
        if numbered:
            return self._by_numbers(at, shape, parts, here, numbered)
        part, taken = parts[here], taken_by(parts[here], at.queries)
        rest = tuple([*parts[:here], FULL, *parts[here + 1 :]])
        if type(part) is int:
            if not -at.queries <= part < at.queries:
                return None
            taken = range(part % at.queries, part % at.queries + 1)
            rest = tuple([*parts[:here], 0, *parts[here + 1 :]])
        if taken is None:
            return None
        if len(taken) == 1:
            return Wanted(node, node.args[0], 1, (node, at.chosen), Pick(taken, rest))
        axis = sum(type(one) is not int for one in parts[:here])
        if len(taken) == at.queries:
            return _kept(at, shape, axis)
        chosen = (taken, at.chosen)
        return Carried(at.owner, shape, axis, chosen, Pick(taken, rest))

    def _by_numbers(
        self, at: Carried, shape: tuple[int, ...], parts: list[Any], here: int, numbered: list[int]
    ) -> Carried | None:
        """Chosen by lists of numbers: of queries, of another axis, or of queries and keys."""
        if any(type(part) is int or part is None for part in parts):
            return None  # where an axis goes then is a matter of its own
        counts = [self._numbers(parts[k]) for k in numbered]
        if None in counts or len({*counts}) > 1 or counts[0] == 1:
            return None
        if here not in numbered:
            taken = taken_by(parts[here], at.queries)
            alone = len(numbered) == 1 and taken is not None and len(taken) == at.queries
            return _kept(at, shape, here) if alone else None
        if numbered not in ([here], [here, here + 1]):
            return None
        beside = parts[here + 1] if len(numbered) == 2 else None
        rest = tuple([*parts[:here], FULL, *parts[here + 1 :]])
        pick = Pick(parts[here], rest, here, beside)
        return Carried(at.owner, shape, here, (parts[here], at.chosen), pick)

    def _numbers(self, part: Any) -> int | None:
        """How many whole numbers a list or a node of one axis gives."""
        if type(part) is FrozenList:
            return len(part.value) if all(type(one) is int for one in part.value) else None
        if type(part) is not Node or part in self.carried:
            return None
        value = self.shown.of(part)
        if value is None or value.ndim != 1 or not mx.issubdtype(value.dtype, mx.integer):
            return None
        return int(value.shape[0])


def _kept(at: Carried, shape: tuple[int, ...], axis: int) -> Carried:
    """The same queries in a value of another shape."""
    return Carried(at.owner, shape, axis, at.chosen)


def _along(node: Node, at: Carried, shape: tuple[int, ...]) -> Carried | Wanted | None:
    """What a function along some axes makes of it."""
    reduces, ndim = node.op in ops.REDUCES, len(at.shape)
    where, left_out = (ops.REDUCES if reduces else ops.KEEPS_AXES)[node.op]
    axes = node.args[where] if len(node.args) > where else dict(node.kwargs).get("axis", left_out)
    if axes is None and reduces:
        axes = tuple(range(ndim))
    axes = axes.value if type(axes) is FrozenList else axes
    axes = axes if type(axes) is tuple else (axes,)
    if any(type(axis) is not int for axis in axes):
        return None
    axes = {axis % ndim for axis in axes}
    if at.axis in axes:
        return Wanted(node, node.args[0], at.queries, at.chosen) if node.op in JOINS else None
    gone = sum(axis < at.axis for axis in axes) if len(shape) < ndim else 0
    return _kept(at, shape, at.axis - gone)
