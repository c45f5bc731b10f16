"""`resid_mid` in a recording: a site while the block is open, and in the graph the sum that it is.

    a read     the layer's input plus what its parts add, each as the whole block leaves it: what is
               written there later in the block is in it, as in whatever the model computes later
    a write    to the last part of the sum, `part + (value - sum)`: the model then adds it up to the
               value, for the skip connection and for what reads the sum alike

Where the value is the sum, that adds nothing, to the last bit.  The sum that is taken away is
another node than the one that is read, so that a gradient at the value comes through the write.

In: a recording's sites, writes and saves.  Out: the same without any `resid_mid`.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.node import Node, site_node, substitute, walk
from mlxgraph.graph.site import Site
from mlxgraph.graph.stream import Sum, Term

Writes = list[tuple[Site, Node]]
Saves = list[tuple[str, Node]]


def lowered(recording: Any, writes: Writes, saves: Saves) -> tuple[Writes, Saves]:
    """Writes and saves as a graph has them."""
    if not recording.sites.sums:
        return writes, saves
    sums = Sums(recording, writes)
    kept = [(name, sums.lowered(node)) for name, node in saves]
    return sums.writes([node for _, node in saves]), kept


def lowered_node(recording: Any, node: Node) -> Node:
    """A node as a graph has it."""
    if not recording.sites.sums:
        return node
    return Sums(recording, recording.sites.writes()).lowered(node)


class Sums:
    """What the sums of one recording are, with its sites as they are now.

    Args: writes: what the sites hold that is not the model's own.
    """

    def __init__(self, recording: Any, writes: Writes):
        self._recording = recording
        self._at: dict[Site, Sum] = recording.sites.sums
        self._nodes = {site_node(*site): site for site in self._at}
        self._written = dict(writes)
        self._read: dict[Site, Node] = {}
        self._done: dict[Node, Node] = {}

    def writes(self, roots: list[Node]) -> Writes:
        """The writes as a graph has them.  Args: roots: what else there is in the graph."""
        own = {site: node for site, node in self._written.items() if site in self._at}
        found = {s: self.lowered(node) for s, node in self._written.items() if s not in self._at}
        asked = self._differentiated([*roots, *self._written.values()])
        sites = sorted({*own, *asked}, key=lambda site: self._at[site].when)
        for site in sites:
            last = self._at[site].terms[-1]
            value = own.get(site, site_node(*site))
            part = self._write(site, value, self._part(last), site in asked)
            whole = self.lowered(self._now(last.site))
            found[last.site] = self._put(whole, last.keys, part)
        return [*found.items()]

    def lowered(self, node: Node) -> Node:
        """A node with the sums in place of their sites."""
        if self._nodes.keys().isdisjoint(walk([node])):
            return node
        if node not in self._done:
            lines, info = self._recording.lines, self._recording.info
            for old, new in substitute([node], self._instead).items():
                self._done[old] = new
                info(new)
                if old in lines:
                    lines.setdefault(new, lines[old])
        return self._done[node]

    def _instead(self, node: Node) -> Node | None:
        site = self._nodes.get(node)
        return None if site is None else self._sum(site)

    def _differentiated(self, roots: list[Node]) -> set[Site]:
        """The sums at which a gradient is taken: what they are worth has to come by a write."""
        return {
            self._nodes[node.args[1]]
            for node in walk(roots)
            if node.op == ops.GRAD and node.args[1] in self._nodes
        }

    # -- one sum ----------------------------------------------------------------------------------

    def _sum(self, site: Site) -> Node:
        known = self._read.get(site)
        if known is None:
            first, *others = self._at[site].terms
            known = self._part(first)
            for term in others:
                known = self._build(ops.MX_ADD, (known, self._scaled(term)))
            self._read[site] = known
        return known

    def _again(self, site: Site) -> Node:
        """The sum once more, to the last bit, and another node."""
        first, *others, last = self._at[site].terms
        known = self._part(first)
        for term in others:
            known = self._build(ops.MX_ADD, (known, self._scaled(term)))
        return self._build(ops.MX_ADD, (self._scaled(last), known))

    def _write(self, site: Site, value: Node, part: Node, asked: bool) -> Node:
        """What the last part of a sum has to be, for the sum to be a value."""
        if self._nodes.get(value) == site and not asked:
            return part
        if value.op == ops.AT_STEPS:
            steps, before, inside = value.args
            sides = [self._write(site, one, part, asked) for one in (before, inside)]
            return self._build(ops.AT_STEPS, (steps, *sides))
        more = self._build(ops.MX_SUBTRACT, (self.lowered(value), self._again(site)))
        scale = self._at[site].terms[-1].scale
        if scale != 1:
            more = self._build(ops.MX_DIVIDE, (more, self._number(scale)))
        added = self._build(ops.MX_ADD, (part, more))
        return self._build(ops.ASTYPE_LIKE, (added, part))

    def _scaled(self, term: Term) -> Node:
        part = self._part(term)
        if term.scale == 1:
            return part
        return self._build(ops.MX_MULTIPLY, (part, self._number(term.scale)))

    def _part(self, term: Term) -> Node:
        node = self.lowered(self._now(term.site))
        for key in term.keys:
            node = self._build(ops.ITEM, (node, key))
        return node

    def _now(self, site: Site) -> Node:
        return self._written.get(site) or site_node(*site)

    def _put(self, whole: Node, keys: tuple[Any, ...], part: Node) -> Node:
        if not keys:
            return part
        inner = self._build(ops.ITEM, (whole, keys[0]))
        return self._build(ops.PUT, (whole, keys[0], self._put(inner, keys[1:], part)))

    def _number(self, scale: float) -> Node:
        """A scale as an input of the run, once for a recording."""
        known: dict[float, Node] = self._recording.sites.scales
        if scale not in known:
            known[scale] = self._recording.operand(scale)
        return known[scale]

    def _build(self, op: str, args: tuple, kwargs: tuple = ()) -> Node:
        return self._recording.build(op, args, kwargs)
