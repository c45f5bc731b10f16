"""The batch that several prompts share: which part of each of its values is a prompt's.

In: the prompts, what a forward on each of them visits, and what one on all of them does.
Out: a graph on the batch's sites for one that was recorded on the prompts' own.
Never: guesses whose an axis is.  An array has the batch's rows where its first axis grows with
them; what has no rows of its own (GPT-2's position embeddings) raises where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.errors import ShapeError
from mlxgraph.graph import ops
from mlxgraph.graph.algebra import canonical, rebuilt
from mlxgraph.graph.base import Note
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.nested import (
    entries,
    entry,
    is_container,
    leaves,
    map_nested,
    replace_item,
    unflatten,
)
from mlxgraph.graph.node import Node, site_node, site_of
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import FULL, Literal, Slice
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.call import Call


class Prompt(NamedTuple):
    """One prompt, or several as rows, of a batch; `more` is what a forward with a row more visits,
    which is only asked where the lengths leave a doubt."""

    call: Call
    census: Census
    more: Callable[[], Census]

    @property
    def rows(self) -> int:
        """How many rows of the batch are this prompt's."""
        return self.call.args[0].shape[0]

    @property
    def length(self) -> int | None:
        """The number of positions, padding between its own rows included; None without tokens."""
        return None if self.call.tokens is None else self.call.tokens.shape[1]


class _NoRows:
    """What stands for an array whose rows cannot be told apart: an error, where it is used."""

    __slots__ = ("error",)

    def __init__(self, error: ShapeError):
        self.error = error


class Batch:
    """All prompts in one forward.  Args: census: what that forward visits."""

    def __init__(self, prompts: Sequence[Prompt], census: Census):
        self._prompts = prompts
        self._census = census
        self._total = sum(prompt.rows for prompt in prompts)
        self._line = ""  # where the value was read that is being moved
        self._notes: Mapping[Node, Note] = {}
        self._parts: dict[Node, tuple[int, Site]] = {}
        # What the nodes of nested values hold, entry by entry: nodes, or what has no rows.
        self._nests: dict[Node, Any] = {}

    def joined(self, graph: Graph) -> Graph:
        """The graph with every invoke's sites as rows of the batch's.

        Raises: ShapeError for a value whose rows cannot be told apart.
        """
        self._notes = graph.notes
        moved = rebuilt(graph, self._moved)
        writes: dict[Site, Node] = {}
        for scoped, node in moved.writes:
            self._line = self._line_of(site_node(*scoped))
            number, site = unscoped(scoped)
            base = writes.get(site, site_node(*site))
            writes[site] = self._whole(number, site, base, node)
        result = canonical(moved.replace(writes=writes.items()))
        for node in result.nodes():
            for part in leaves(self._nests.get(node)):
                _usable(part)
        return result

    def _line_of(self, node: Node) -> str:
        note = self._notes.get(node)
        return (note and note.where) or "an invoke"

    # -- a prompt's part of a value ---------------------------------------------------------------

    def _moved(self, node: Node) -> Node | None:
        """A node of the recorded graph, its inputs moved already, on the batch."""
        if node.op == ops.SITE:
            self._line = self._line_of(node)
            number, site = unscoped(site_of(node))
            part = self._part(number, site, site_node(*site))
            self._parts[part] = number, site
            return part
        if node.op == ops.GRAD and node.args[1] in self._parts:
            # nothing reads the part itself: its gradient is these rows of the batch's
            number, site = self._parts[node.args[1]]
            return self._part(number, site, Node(ops.GRAD, (node.args[0], site_node(*site))))
        if node.op == ops.GRAD and node.args[1] in self._nests:
            loss, at = node.args
            self._nests[node] = map_nested(self._nests[at], lambda leaf: _slope(loss, leaf))
            return None
        nest = self._nests.get(node.args[0]) if node.args else None
        return None if nest is None else self._entry(node, nest)

    def _entry(self, node: Node, nest: Any) -> Node | None:
        """What an operation on a nested value comes to, entry by entry."""
        if node.op == ops.LEAF:
            return _usable(leaves(nest)[node.args[1]])
        if node.op == ops.ITEM:
            found = entry(nest, node.args[1])
            if not is_container(found):
                return _usable(found)
            self._nests[node] = found
        elif node.op == ops.PUT:
            _, key, value = node.args
            self._nests[node] = replace_item(nest, key, self._nests.get(value, value))
        elif node.op == ops.UNFLATTEN_LIKE:
            self._nests[node] = unflatten(nest, list(node.args[1:]))
        return None

    def _part(self, number: int, site: Site, base: Node) -> Node:
        """A prompt's part of the batch's value."""
        self._census.visits(site)  # one inside a module is entered when it is asked for
        own, batch = self._prompts[number].census.values[site], self._census.values[site]
        if not is_container(own):
            return Node(ops.GETITEM, (base, self._index(number, site, own, batch)))
        mine = dict(_paths(own))
        known = {path: value for path, value in mine.items() if isinstance(value, ARRAY)}
        parts: dict[tuple, Any] = {}
        whole: list[Any] = []
        for k, (path, value) in enumerate(_paths(batch)):
            part: Any = Node(ops.LEAF, (base, k))
            if path in known:
                try:
                    index = self._index(number, site, known[path], value)
                    part = Node(ops.GETITEM, (part, index))
                except ShapeError as error:
                    parts[path] = _NoRows(error)
            parts.setdefault(path, part)
            plain = mine.get(path)  # a number: the prompt's own, where it depends on shapes alone
            if self._census.traceable and isinstance(plain, (int, float)):
                part = plain if type(plain) is int else Literal(plain)
            whole.append(part)
        missing = _NoRows(_no_rows(site, own, batch, self._line))
        node = Node(ops.UNFLATTEN_LIKE, (base, *whole))
        self._nests[node] = unflatten(own, [parts.get(path, missing) for path, _ in _paths(own)])
        return node

    def _whole(self, number: int, site: Site, base: Node, value: Node) -> Node:
        """The batch's value with a prompt's part replaced."""
        own, batch = self._prompts[number].census.values[site], self._census.values[site]
        if not is_container(own):
            index = self._index(number, site, own, batch)
            return Node(ops.UPDATE, (base, index, value))
        before = dict(_paths(self._nests[self._part(number, site, site_node(*site))]))
        nest = self._nests.get(value)
        if nest is None:
            nest = unflatten(own, [Node(ops.LEAF, (value, k)) for k in range(len(leaves(own)))])
        after, arrays = dict(_paths(nest)), dict(_paths(own))
        parts = []
        for k, (path, whole) in enumerate(_paths(batch)):
            leaf = Node(ops.LEAF, (base, k))
            new = after.get(path)
            kept = new is before.get(path) or type(new) is _NoRows
            if isinstance(arrays.get(path), ARRAY) and not kept:
                index = self._index(number, site, arrays[path], whole)
                leaf = Node(ops.UPDATE, (leaf, index, new))
            parts.append(leaf)
        return Node(ops.UNFLATTEN_LIKE, (base, *parts))

    def _index(self, number: int, site: Site, own: mx.array, batch: Any) -> tuple:
        """Which rows and positions of the batch's array are this prompt's."""
        first = sum(prompt.rows for prompt in self._prompts[:number])
        prompt = self._prompts[number]
        if len(self._prompts) == 1 and own.shape == getattr(batch, "shape", None):
            return (Ellipsis,)  # one prompt is all of the batch
        rows = self._axis_of_rows(prompt, site, own, batch)
        if rows is None:
            raise _no_rows(site, own, batch, self._line)
        index: list[Any] = []
        for axis, (mine, whole) in enumerate(zip(own.shape, batch.shape, strict=True)):
            if axis == rows:
                index.append(Slice(first, first + prompt.rows, None))
            elif mine == whole:
                index.append(FULL)
            elif mine == prompt.length:
                index.append(Slice(whole - mine, whole, None))
            else:
                raise _no_rows(site, own, batch, self._line)
        return tuple(index)

    def _axis_of_rows(self, prompt: Prompt, site: Site, own: mx.array, batch: Any) -> int | None:
        """The axis of a value that is the batch's: the first, as a rule, or the one that grows
        with a row more, where streams are stacked before it."""
        if self._has_rows(prompt, site, own, batch):
            return 0
        if not isinstance(batch, ARRAY) or own.ndim != batch.ndim:
            return None
        more = prompt.more()
        grown = more.values.get(site) if more.visits(site) else None
        found = set()
        for value in leaves(grown):
            if isinstance(value, ARRAY) and value.ndim == own.ndim:
                pairs = enumerate(zip(own.shape, value.shape, strict=True))
                found.add(tuple(axis for axis, (a, b) in pairs if a != b))
        axes = next(iter(found)) if len(found) == 1 else ()
        if len(axes) != 1 or not axes[0]:
            return None
        is_ours = own.shape[axes[0]] == prompt.rows and batch.shape[axes[0]] == self._total
        return axes[0] if is_ours else None

    def _has_rows(self, prompt: Prompt, site: Site, own: mx.array, batch: Any) -> bool:
        """Whether the first axis of a value is the batch's."""
        if not isinstance(batch, ARRAY) or own.ndim != batch.ndim or not own.ndim:
            return False
        if own.shape[0] != prompt.rows or batch.shape[0] != self._total:
            return False
        lengths = {one.length for one in self._prompts}
        if len(lengths) == 1 and prompt.rows != self._total:
            return True  # nothing else has grown
        more = prompt.more()
        grown = more.values.get(site) if more.visits(site) else None
        shapes = [v.shape for v in leaves(grown) if isinstance(v, ARRAY)]
        return (prompt.rows + 1, *own.shape[1:]) in shapes


def _slope(loss: Node, leaf: Any) -> Any:
    """The gradient at one array of a nested value; of what was not edited, that of its site."""
    if type(leaf) is not Node:
        return leaf
    match leaf:
        case Node(ops.GETITEM, (Node(ops.LEAF, (Node(ops.SITE) as site, k)), index)):
            whole = Node(ops.LEAF, (Node(ops.GRAD, (loss, site)), k))
            return Node(ops.GETITEM, (whole, index))
    return Node(ops.GRAD, (loss, leaf))


def _usable(entry: Any) -> Any:
    if type(entry) is _NoRows:
        raise entry.error
    return entry


def _paths(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """The leaves of a nested value, each with the keys that lead to it."""
    if not is_container(value):
        yield path, value
        return
    for key, item in entries(value):
        yield from _paths(item, (*path, key))


def unscoped(site: Site) -> tuple[int, Site]:
    """A prompt's number, and the site without it."""
    number, _, path = site.path[1:].partition(":")
    return int(number), site._replace(path=path)


def _no_rows(site: Site, own: Any, batch: Any, where: str) -> ShapeError:
    shape = getattr(own, "shape", type(own).__name__)
    whole = getattr(batch, "shape", type(batch).__name__)
    return ShapeError(
        f"{site.spoken} is {shape} for one prompt and {whole} for all of them: its rows cannot"
        " be told apart",
        where,
        "Use a trace of its own for each prompt.",
    )
