"""Several texts in one forward: what each of them needs of it, as one graph.

A graph is written as for one text, and done to each.  In a batch every text is a row with columns
of its own; what it needs of the forward is lowered by itself (`rewrite.positions`), and here its
sites become its part of the batch's.

In: what each row needs, and which row and columns are its own.  Out: one graph on the batch.
Never: guesses which axis is the batch's.  A value that has no row for each text is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from mlxgraph.errors import PartOfTextError
from mlxgraph.graph import ops
from mlxgraph.graph.nested import is_container, leaves
from mlxgraph.graph.node import Node, is_draw, site_node, site_of, substitute
from mlxgraph.graph.site import OUTPUT, SKIP, Site
from mlxgraph.graph.values import FULL, Slice
from mlxgraph.rewrite.lowered import Keep, Lowered, Save


class Row(NamedTuple):
    """One text in a batch's forward: its number among all, the row that it is, its columns."""

    text: int
    row: int
    columns: tuple[int, int]


class Sites(NamedTuple):
    """What has to be known of a site: its axes (as `About.axes`), and in place of each array
    whether its first axis is the batch's."""

    axes: Callable[[Site], Any]
    rows: Callable[[Site], Any]
    line: Callable[[Node], str]


class Joined(NamedTuple):
    """The graph of a batch's forward.

    Attributes: saves, keep: as of a `Lowered`, each with the number of its text; asks: by param,
        the text and the node that was recorded.
    """

    writes: list[tuple[Site, Node]]
    saves: list[tuple[int, Save]]
    keep: list[tuple[int, Keep]]
    asks: dict[Node, tuple[int, Node]]


def joined(rows: Sequence[tuple[Row, Lowered]], sites: Sites, draws: int) -> Joined:
    """One graph of what each row needs.  Args: draws: how many numbered draws the graph has."""
    writes: dict[Site, Node] = {}
    found = Joined([], [], [], {})
    for row, lowered in rows:
        kept = [keep.value for keep in lowered.keep]
        roots = [*[n for _, n in lowered.writes], *[s.node for s in lowered.saves], *kept]
        moved = substitute(roots, partial(_moved, row=row, sites=sites, draws=draws))
        for site, node in lowered.writes:
            base = writes.get(site) or site_node(*site)
            writes[site] = _put(site, base, moved[node], row, sites)
        for save in lowered.saves:
            found.saves.append((row.text, save._replace(node=moved[save.node])))
        for keep in lowered.keep:
            found.keep.append((row.text, keep._replace(value=moved[keep.value])))
        for param, node in lowered.asks.items():
            found.asks[_own(param, row)] = (row.text, node)
    return found._replace(writes=list(writes.items()))


def _own(param: Node, row: Row) -> Node:
    name, *kind = param.args
    return Node(ops.PARAM, (f"{name} of {row.text}", *kind))


def _moved(node: Node, row: Row, sites: Sites, draws: int) -> Node | None:
    if node.op == ops.SITE:
        return _part(site_of(node), node, row, sites)
    if node.op == ops.PARAM and node.args[0].startswith("earlier "):
        return _own(node, row)
    if is_draw(node) and row.text:
        return Node(node.op, (node.args[0] + draws * row.text, *node.args[1:]), node.kwargs)
    return None


def _index(axis: Any, row: Row) -> tuple:
    own: tuple = (Slice(row.row, row.row + 1, None),)
    if type(axis) is int and row.columns != (0, -1):
        own += (Ellipsis, Slice(*row.columns, None), *(FULL,) * (-axis - 1))
    return own


def _known(site: Site, sites: Sites) -> tuple[Any, Any]:
    there = site._replace(port=OUTPUT) if site.port == SKIP else site
    return sites.axes(there), sites.rows(there)


def _refused(site: Site, sites: Sites) -> PartOfTextError:
    return PartOfTextError(
        f"{site.spoken} cannot be taken apart into the texts of a batch",
        sites.line(site_node(*site)),
        "Generate from one text at a time.",
    )


def _part(site: Site, base: Node, row: Row, sites: Sites) -> Node:
    """A row's part of the batch's value."""
    axes, own = _known(site, sites)
    if not is_container(axes):
        if not own:
            raise _refused(site, sites)
        return Node(ops.GETITEM, (base, _index(axes, row)))
    parts = []
    for k, (axis, has_rows) in enumerate(zip(leaves(axes), leaves(own), strict=True)):
        leaf = Node(ops.LEAF, (base, k))
        parts.append(Node(ops.GETITEM, (leaf, _index(axis, row))) if has_rows else leaf)
    return Node(ops.UNFLATTEN_LIKE, (base, *parts))


def _put(site: Site, base: Node, value: Node, row: Row, sites: Sites) -> Node:
    """The batch's value with a row's part replaced."""
    axes, own = _known(site, sites)
    if site.port == SKIP:
        raise _refused(site, sites)
    if not is_container(axes):
        if not own:
            raise _refused(site, sites)
        return Node(ops.UPDATE, (base, _index(axes, row), value))
    parts = []
    for k, (axis, has_rows) in enumerate(zip(leaves(axes), leaves(own), strict=True)):
        leaf = Node(ops.LEAF, (base, k))
        if has_rows:
            new = Node(ops.LEAF, (value, k))
            leaf = Node(ops.UPDATE, (leaf, _index(axis, row), new))
        parts.append(leaf)
    return Node(ops.UNFLATTEN_LIKE, (base, *parts))
