"""What most variants of a sweep do alike: edits that stay on the model, or a part of each graph.

It is done in the run that the others join, and a variant joins where it first differs from that.

In: planned variants.  Out: their base, and each with the place where it joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, walk
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.buffers import SeenArrays
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import holds_nothing, is_followed
from mlxgraph.rewrite.shift import Shift
from mlxgraph.run.grown import NEVER, UNEDITED, Base, Row
from mlxgraph.sweep.shared import Planned, Shared


class Common(NamedTuple):
    """The run that others join.

    Attributes: base: on the whole text; shift: how it is done to a part of the text, or None.
    """

    base: Base = UNEDITED
    shift: Shift | None = None

    @property
    def first(self) -> float:
        """The first position that it edits."""
        if not self.base.writes:
            return NEVER
        return 0 if self.shift is None else self.shift.first

    def at(self, start: int) -> Base:
        """It, on the text from a position on."""
        if not start or self.shift is None:
            return self.base
        return self.base._replace(writes=dict(self.shift.at(start).writes))


def common_to(shared: Shared, plans: Sequence[Planned]) -> Common:
    """The writes that more than half of the variants make alike, of those that one of them has."""
    votes: dict[tuple[Site, Node], list[Row]] = {}
    for plan in plans:
        for write in plan.row.plan.writes.items():
            votes.setdefault(write, []).append(plan.row)
    most = {}
    for (site, node), rows in votes.items():
        first = rows[0]
        alike = sum(_alike(node, row, first) for row in rows)
        if 2 * alike > len(plans):
            most[site, node] = first
    if not most:
        return Common()
    owner = max(plans, key=lambda plan: sum(_has(plan.row, *one) for one in most.items())).row
    writes = {site: node for (site, node), row in most.items() if _has(owner, (site, node), row)}
    used = {node for node in walk(writes.values()) if node in owner.known}
    known = {node: owner.known[node] for node in used}
    shift = shared.positions.shift(Graph(writes=writes.items()), known)
    return Common(Base(writes, known), shift)


def joining(shared: Shared, planned: Planned, common: Common) -> Planned:
    """A variant with the site at which it first differs from what it joins."""
    row, base, at = planned.row, common.base, shared.census.position
    own = {
        site
        for site, node in row.plan.writes.items()
        if base.writes.get(site) is not node or not _alike(node, row, base)
    }
    last = row.plan.last
    end = NEVER if last is None else at(last)
    own |= {site for site in base.writes if site not in row.plan.writes and at(site) < end}
    site = min(own, key=at, default=None)
    return planned._replace(row=row._replace(first=NEVER if site is None else at(site), site=site))


def _has(row: Row, write: tuple[Site, Node], like: Row) -> bool:
    site, node = write
    return row.plan.writes.get(site) is node and _alike(node, row, like)


def _alike(node: Node, row: Row, like: Row | Base) -> bool:
    """Whether a node is worth the same in two runs, as far as its sources go."""
    return row is like or all(
        _same(row.known[one], like.known.get(one)) for one in walk([node]) if one in row.known
    )


def _same(one: Any, other: Any) -> bool:
    """Whether two numbers are equal, or two arrays lie in one place: an edit that is recorded once
    for each variant lifts the same array each time."""
    if one is other:
        return True
    if not isinstance(one, ARRAY) or not isinstance(other, ARRAY):
        return isinstance(one, (bool, int, float)) and one == other
    if any(is_followed(array) or holds_nothing(array) for array in (one, other)):
        return False
    return SeenArrays([one]).are([other])
