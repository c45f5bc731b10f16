"""Many runs in one forward, in a batch that grows on the way.

All of them are one and the same up to the first thing that one of them writes.  So the forward
begins on the unedited run alone (slab 0); at the site of its first write a run joins, as a copy of
slab 0 with that write made, and from there on it has a slab of its own.  What a graph reads and
writes is its own slab, of the shape that it was recorded on.

A module that ends before some of its rows were written to (one inside a block where others are)
is given only those that were, and what it gives for slab 0 stands for the rest.

In: plans, in the order of their first writes.  Out: what each saves, lazy.
Never: evaluates an array.  Raises CannotGrow where it is not certain whose part is where.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.evaluate.evaluate import same_data_in
from mlxgraph.evaluate.values import Values
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import leaves, map_nested, unflatten
from mlxgraph.graph.node import Node, site_node, site_of, walk
from mlxgraph.graph.site import INPUTS, OUTPUT, SKIP, Site
from mlxgraph.mlx_facts.arrays import in_a_buffer_of_its_own
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.answering import Stop, ValuesInside, answering, go_through
from mlxgraph.run.call import Call
from mlxgraph.run.forward import ByHand
from mlxgraph.run.inside import Watch
from mlxgraph.run.late import Late
from mlxgraph.run.plan import Plan
from mlxgraph.run.pushdown import Cut
from mlxgraph.run.route import Route, route
from mlxgraph.run.slabs import (
    UNKNOWN,
    CannotGrow,
    Slabs,
    part,
    put_together,
    sized,
    slabs_in,
)
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree

NEVER = float("inf")


class Row(NamedTuple):
    """One run: its plan, what the plan's sources are worth, and where it first differs from slab 0:
    the census position and the site."""

    plan: Plan
    known: dict[Node, Any]
    first: float
    site: Site | None


class Base(NamedTuple):
    """What slab 0 writes, and what the sources of that are worth: nothing, in the unedited run."""

    writes: Mapping[Site, Node]
    known: Mapping[Node, Any]


UNEDITED = Base({}, {})


def row_of(plan: Plan, known: dict[Node, Any], census: Census) -> Row:
    """A run that joins the unedited one at its first write."""
    site = min(plan.writes, key=census.position, default=None)
    return Row(plan, known, NEVER if site is None else census.position(site), site)


def run_grown(
    rows: Sequence[Row],
    census: Census,
    slabs: Slabs,
    containers: frozenset[str],
    tree: ModuleTree,
    call: Call,
    cut: Cut | None = None,
    base: Base | None = UNEDITED,
    late: Late | None = None,
    weights: Sequence[mx.array] | None = None,
) -> list[list[Any]]:
    """What each run saves, lazy.

    Args:
        rows: sorted by their first write.
        containers: the modules that hold the layers, the model itself among them: there the batch
            grows from one layer to the next.
        cut: where only some positions of the stream go on, for all runs alike.
        base: what slab 0 is, where the call is of one slab, which others join; None where it is of
            one for each run from the start, and no run has a first write (NEVER).
        late: the last block, where it runs at the positions of the cut alone; nothing is read or
            written in it or after it, but for the output.
        weights: arrays to use in place of the tree's.
    Raises: CannotGrow, NodeFailure, and whatever the model raises.
    """
    if not any(row.plan.hooked or row.plan.calls_modules for row in rows):
        raise CannotGrow("nothing of the model is needed")
    firsts = {row.site for row in rows if row.site is not None and row.first != NEVER}
    way = route(firsts, census, slabs, containers, tree)
    run = GrownRun(rows, census, slabs, containers, way, base)
    with tree.beyond.as_it_was():
        run.go(tree, call, cut, late, weights)
        return [
            [map_nested(values[node], _own) for node in row.plan.saves]
            for row, values in zip(rows, run.values, strict=True)
        ]


def _own(value: Any) -> Any:
    return in_a_buffer_of_its_own(value) if isinstance(value, ARRAY) else value


class GrownRun:
    """The state of one forward of many runs."""

    def __init__(
        self,
        rows: Sequence[Row],
        census: Census,
        slabs: Slabs,
        containers: frozenset[str],
        route: Route,
        base: Base | None,
    ):
        self._order, self._slabs, self._containers = census.order, slabs, containers
        self._route = route
        self._fitted = route.holders | route.spared | route.carried
        self._firsts = [row.first for row in rows]
        self._plans = [row.plan for row in rows]
        self._by_hand = ByHand()
        self.values = [Values(dict(row.known), self._by_hand) for row in rows]
        self._readers: dict[Site, list[int]] = {}
        self._writers: dict[Site, list[int]] = {}
        for k, row in enumerate(rows):
            for site in row.plan.read:
                self._readers.setdefault(site, []).append(k)
            for site in row.plan.writes:
                self._writers.setdefault(site, []).append(k)
        self._common = {} if base is None else base.writes
        self._slab_0 = Values({} if base is None else dict(base.known), self._by_hand)
        self._reads_0 = {n for n in walk(self._common.values()) if n.op == ops.SITE}
        self._stops = {*self._readers, *self._writers, *self._common, *map(site_of, self._reads_0)}
        lasts = [row.plan.last for row in rows]
        self._last = max((one for one in lasts if one), key=census.position, default=None)
        self.seen: Counter[str] = Counter()
        self._base = 0 if base is None else 1  # the slab of the first run
        self._now = self._base or len(rows)  # slabs in the module whose forward runs
        self._cut: Cut | None = None
        self._late: Late | None = None

    def go(
        self,
        tree: ModuleTree,
        call: Call,
        cut: Cut | None,
        late: Late | None,
        weights: Sequence[mx.array] | None,
    ) -> None:
        """Run the forward as far as somebody needs it."""
        self._late, self._cut = late, None if late else cut
        hooked = set(self._fitted).union(*{plan.hooked for plan in self._plans})
        hooked |= {site.path for site in self._stops if site.path in tree.modules}
        if self._cut is not None:
            hooked.add(self._cut.norm.path)
        if late is not None:
            hooked.add(late.path)
        inside = frozenset[str]().union(*[plan.inside for plan in self._plans])
        hook = answering(self)
        watch = None
        if inside:
            written: dict[str, Any] = {}
            for plan in self._plans:
                written.update(plan.written)
            watch = Watch(tree, hook, ValuesInside(self), inside, written)
            hooked |= {site.path for site in self._order if site.path in tree.modules}
        if late is not None:  # it is called twice, and nobody looks into it
            hooked = {path for path in hooked if not path.startswith(f"{late.path}.")}
        standin = StandIn(tree, hooked, watch.module if watch else hook, weights)
        self._by_hand.modules = standin.modules
        go_through(tree, call, standin, watch)

    # -- one module's call ------------------------------------------------------------------------

    def answer(
        self, path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """What a hooked module's call returns."""
        if self._by_hand.under_way:
            return original(*args, **kwargs)
        number = self.seen[path]
        self.seen[path] += 1
        before, after = Site(path, INPUTS, number), Site(path, OUTPUT, number)
        if before in self._stops or self._cut is not None and before == self._cut.norm:
            args, kwargs = self.through(before, (args, kwargs))
        if path in self._containers:
            result = original(*args, **kwargs)
            inside = arrived = self._now  # as many as the layers made of it
        else:
            outer = self._now
            (args, kwargs), arrived = self._fit(before, after, (args, kwargs))
            inside = self._now
            if self._late is not None and path == self._late.path:
                original = partial(self._late.run, original)
            result = original(*args, **kwargs)
            self._now = outer
        skip = after._replace(port=SKIP)
        if skip in self._writers or skip in self._common:
            result = self._replaced(after, result, inside, inside, self._edited(skip, inside), {})
        if after in self._stops or arrived > inside or path in self._fitted:
            result = self.through(after, result, inside, arrived)
        return result

    def _fit(self, before: Site, after: Site, given: Any) -> tuple[Any, int]:
        """What a module is given, with as many slabs as its forward has to see; and how many
        there were."""
        if after not in self._order:
            raise CannotGrow(f"{before.path} is called more often than in the census")
        path, axes, found = before.path, self._slabs.of(before), leaves(given)
        arrived = slabs_in(found, axes, self._now)
        wanted = arrived
        if path in self._fitted:
            needed = bisect_left(self._firsts, self._order[after]) + self._base
            is_spared = path in self._route.spared and UNKNOWN not in axes
            wanted = needed if is_spared and self._is_known(after) else max(needed, arrived)
        self._now = wanted
        if len(axes) != len(found):
            if wanted != arrived:
                raise CannotGrow(f"{path} is given other things than in the census")
            return given, arrived
        fitted = [
            sized(leaf, along, arrived, wanted, path) if isinstance(leaf, ARRAY) else leaf
            for leaf, along in zip(found, axes, strict=True)
        ]
        if all(a is b for a, b in zip(fitted, found, strict=True)):
            return given, arrived
        return unflatten(given, fitted), arrived

    def _is_known(self, site: Site) -> bool:
        return UNKNOWN not in self._slabs.of(site)

    def stops_at(self, site: Site) -> bool:
        """Whether a value is read or written."""
        return site in self._stops

    def computes_from(self, site: Site) -> bool:
        """Whether what follows has to be computed from what is answered."""
        return site in self._writers

    # -- one site ---------------------------------------------------------------------------------

    def through(self, site: Site, value: Any, have: int | None = None, want: int = 0) -> Any:
        """Keep what each run reads of a site's value, and give back the one with their edits.

        Args: have: how many slabs it holds; want: how many to give back at least.
        """
        when = self._order[site]
        have = have or slabs_in(leaves(value), self._slabs.of(site), self._now)
        want = max(have, want, bisect_right(self._firsts, when) + self._base)
        kept: dict[int, Any] = {}
        for k in self._readers.get(site, ()):
            number = k + self._base
            number = number if number < have else 0
            if number not in kept:
                kept[number] = same_data_in(self._slab(site, value, have, number))
            self.values[k].known[site_node(*site)] = kept[number]
        if site_node(*site) in self._reads_0 or site in self._common:
            kept[0] = kept[0] if 0 in kept else same_data_in(self._slab(site, value, have, 0))
            self._slab_0.known[site_node(*site)] = kept[0]
        edited = self._edited(site, want)
        if site in self._common:  # what joins here without that write is as slab 0 was before it
            edited = {number: kept[0] for number in range(have, want)} | edited
        if edited or want > have:
            value = self._replaced(site, value, have, want, edited, kept)
        self._now = max(self._now, want)
        if self._cut is not None and site == self._cut.norm:
            value = _cut_off(value, self._cut)
        if site == self._last:
            raise Stop
        return value

    def _edited(self, site: Site, count: int) -> dict[int, Any]:
        """What is written at a site in each of so many slabs."""
        edited = {
            k + self._base: self.values[k][self._plans[k].writes[site]]
            for k in self._writers.get(site, ())
            if k + self._base < count
        }
        if site in self._common:
            edited[0] = self._slab_0[self._common[site]]
        return edited

    def _slab(self, site: Site, value: Any, have: int, number: int) -> Any:
        axes, found = self._slabs.of(site), leaves(value)
        parts = []
        for k, leaf in enumerate(found):
            along = axes[k] if len(axes) == len(found) else UNKNOWN
            if not isinstance(leaf, ARRAY) or along is None:
                parts.append(leaf)
                continue
            if along is UNKNOWN:
                raise CannotGrow(f"{site} has no axis that is surely that of the rows")
            parts.append(part(leaf, along, number, along.unit or leaf.shape[along.axis] // have))
        return unflatten(value, parts) if len(parts) != 1 or parts[0] is not value else value

    def _replaced(
        self,
        site: Site,
        value: Any,
        have: int,
        want: int,
        edited: Mapping[int, Any],
        kept: Mapping[int, Any],
    ) -> Any:
        """A value with more slabs, some of them edited.  Args: kept: the slabs that were read."""
        axes, found = self._slabs.of(site), leaves(value)
        theirs = {number: leaves(one) for number, one in edited.items()}
        own = [leaf for one in kept.values() for leaf in leaves(one)]
        if any(len(one) != len(found) for one in theirs.values()) or len(axes) != len(found):
            raise CannotGrow(f"{site} is not put together in one way")
        parts = []
        for k, (leaf, along) in enumerate(zip(found, axes, strict=True)):
            mine = {number: one[k] for number, one in theirs.items()}
            if not isinstance(leaf, ARRAY):
                parts.append(leaf)
            elif along is None:
                if not all(any(one is its for its in own) for one in mine.values()):
                    raise CannotGrow(f"{site} has a part that all rows share")
                parts.append(leaf)
            elif along is UNKNOWN:
                raise CannotGrow(f"{site} has no axis that is surely that of the rows")
            else:
                unit = along.unit or leaf.shape[along.axis] // have
                parts.append(put_together(leaf, along, unit, want, mine))
        return unflatten(value, parts)


def _cut_off(given: Any, cut: Cut) -> Any:
    (stream, *rest), kwargs = given
    return (stream[:, cut.start : cut.stop], *rest), kwargs
