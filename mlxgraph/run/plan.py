"""Plan: what one run will do.

In: a graph and a census.  Out: which sites are read, which are written, where the forward may
stop.  What no save needs is not in the plan: later writes are left out, and the forward's own
Python ends with the last value that somebody asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

from mlxgraph.errors import NeverCalledError, OrderError
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census, check_number
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.inside import may_be_inside
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.node import Node, is_draw, site_node, site_of, walk
from mlxgraph.graph.nothing_inside import nothing_there
from mlxgraph.graph.site import INPUTS, OUTPUT, SKIP, Site
from mlxgraph.run.query_blocks import Blocks, find_blocks
from mlxgraph.run.two_passes import AtPositions


class Reach(NamedTuple):
    """How far into a forward some saves reach: the sites read, the writes seen, the last site."""

    read: frozenset[Site]
    writes: dict[Site, Node]
    last: Site | None


def reach(graph: Graph, census: Census, saves: Sequence[Node]) -> Reach:
    """What of a graph and of a forward some saves can see.

    Raises: NeverCalledError for a site that this forward does not visit, OrderError for a write
    that needs a later site.
    """
    needed = {site_of(node) for node in walk(saves) if node.op == ops.SITE}
    for site in (*needed, *(site for site, _ in graph.writes)):
        if not census.visits(site) or site in census.sums:
            line, called = _line(graph, site), dict.fromkeys(s.path for s in census.of_modules())
            if may_be_inside(site.path):
                raise nothing_there(census, site, line)
            check_number(site, called, line)
            raise NeverCalledError(site.spoken, line, called, census.calls(site.path))
    order = census.order
    last = max(needed, key=order.__getitem__, default=None)
    writes = {
        site: node
        for site, node in graph.writes
        if last is not None and census.position(site) < order[last]
    }
    read = needed.union(*(_sources(site, node, graph, census) for site, node in writes.items()))
    _check_skipped(graph, read, writes)
    return Reach(frozenset(read), writes, last)


def _sources(site: Site, node: Node, graph: Graph, census: Census) -> set[Site]:
    """The sites that a write needs, all of which have to come before it."""
    found = {site_of(below) for below in walk([node]) if below.op == ops.SITE}
    for source in found:
        if census.order.get(source, len(census.order)) > census.position(site):
            raise OrderError(site.spoken, source.spoken, _line(graph, site), "")
    return found


def _check_skipped(graph: Graph, read: set[Site], writes: dict[Site, Node]) -> None:
    skipped = tuple(site.path + "." for site in writes if site.port == SKIP)
    for site in read:
        if skipped and site.path.startswith(skipped):
            reason = "it is part of a module that is skipped in this block."
            raise NeverCalledError(site.spoken, _line(graph, site), (), reason=reason)


class Plan(NamedTuple):
    """The sites that a run stops at, and what it does there.

    Attributes: cut_from: for each save that may be a part of other nodes' arrays, these nodes.
    """

    saves: tuple[Node, ...]
    cut_from: tuple[tuple[Node, ...] | None, ...]
    writes: dict[Site, Node]
    read: frozenset[Site]
    stops: frozenset[Site]
    hooked: frozenset[str]
    inside: frozenset[str]  # the paths of sites inside modules
    lines: Mapping[Site, str]  # where these are read or written
    written: Mapping[str, Sequence[Any]]  # the attentions that modules write out by hand
    last: Site | None
    sources: tuple[Node, ...]
    calls_modules: bool
    opaque: bool
    draws: bool
    drawn: tuple[Node, ...]
    gradients: bool
    turns: dict[Site, list[Any]]
    expected: Mapping[Site, Expected] | None  # where the forward may go another way than it did
    last_layer: AtPositions | None = None  # how the last block is run at few positions
    blocks: Mapping[Site, Blocks] = MappingProxyType({})  # squares that are not made whole


_NO_BLOCKS: Mapping[Site, Blocks] = MappingProxyType({})


class Expected(NamedTuple):
    """What a site held in the census, and the user's line that reads or writes it."""

    value: Any
    line: str


def make_plan(
    graph: Graph,
    census: Census,
    saves: Sequence[Node],
    last_layer: AtPositions | None = None,
    whole: bool = True,
    in_blocks: bool = False,
) -> Plan:
    """The plan that computes `saves` under the graph's writes.

    Args: whole: left out where nobody asks what saves are cut from; in_blocks: whether large
        scores and patterns may be computed in blocks of queries.
    Raises: as `reach`.
    """
    read, writes, last = reach(graph, census, saves)
    nodes = list(walk([*saves, *writes.values()]))
    stops = read | set(writes)
    inside = frozenset([site.path for site in stops if census.is_inside(site)])
    # with sites inside, all of them are hooked, to know whose forward runs
    hooked = census.called() if inside else frozenset([site.path for site in stops])
    return Plan(
        saves=tuple(saves),
        cut_from=tuple(_cut_from(save, census) for save in saves) if whole else (),
        writes=writes,
        read=read,
        stops=stops,
        hooked=hooked | {last_layer.path} if last_layer else hooked,
        inside=inside,
        written=census.written if inside else {},
        lines={site: _line(graph, site) for site in stops if site.path in inside},
        last=last,
        sources=tuple(node for node in nodes if node.op in ops.SOURCES and node.op != ops.SITE),
        calls_modules=any(node.op == ops.CALL for node in nodes),
        opaque=any(node.op == ops.APPLY for node in nodes),
        draws=any(ops.is_random(node.op) or is_draw(node) for node in nodes),
        drawn=tuple(node for node in nodes if is_draw(node)),
        gradients=any(node.op == ops.GRAD for node in nodes),
        turns=_turns(stops, census),
        expected=None if census.traceable else _expected(stops, graph, census),
        last_layer=last_layer,
        blocks=find_blocks(census, saves, writes) if inside and in_blocks else _NO_BLOCKS,
    )


def _turns(stops: Iterable[Site], census: Census) -> dict[Site, list[Any]]:
    """The axes that are turned where a run stops; a skipped module's are its output's."""
    sites = [site._replace(port=OUTPUT) if site.port == SKIP else site for site in stops]
    return {site: census.turns[site] for site in sites if site in census.turns}


def _cut_from(save: Node, census: Census) -> tuple[Node, ...] | None:
    """What a save may show a part of, if it may show less than all: the nodes whose arrays these
    are, none where they are not known."""
    node, cuts = save, False
    while node.op in ops.SHOWS and type(node.args[0]) is Node:
        cuts = cuts or node.op in ops.CUTS
        node = node.args[0]
    if node.op in ops.OF_CODE:
        return node.inputs
    if node.op == ops.SITE and _may_be_a_part(site_of(node), census):
        return ()
    return (node,) if cuts else None


def _may_be_a_part(site: Site, census: Census) -> bool:
    """Whether a module may have cut what it gives from what it was given.

    Of what it was given nobody can tell: a copy in case would round what is computed of it later
    in another order.
    """
    given = numbers_in(census.values.get(site._replace(port=INPUTS)))
    return site.port == OUTPUT and 2 * numbers_in(census.values.get(site)) <= given


def numbers_in(value: Any) -> int:
    """How many numbers the arrays, or placeholders, of a value hold; 0 where it is not known."""
    try:
        return sum(prod(one.shape) for one in leaves(value) if hasattr(one, "dtype"))
    except RecursionError:
        return 0  # it contains itself


def _expected(stops: Iterable[Site], graph: Graph, census: Census) -> dict[Site, Expected]:
    return {site: Expected(census.values.get(site), _line(graph, site)) for site in stops}


def _line(graph: Graph, site: Site) -> str:
    """Where the user wrote or read a site, as errors say it."""
    users = [node for written, node in graph.writes if written == site]
    users += [n for n in graph.nodes() if n.op == ops.SITE and site_of(n) == site]
    note = graph.notes.get(users[0] if users else site_node(*site))
    return (note and note.where) or "an edit"
