"""What the runs of a sweep have in common: one call, its census, and where its rows are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from mlxgraph.evaluate.values import source_values
from mlxgraph.graph import ops
from mlxgraph.graph.census import STEP
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_node, walk
from mlxgraph.graph.site import INPUTS, Site
from mlxgraph.record.gather import own_part
from mlxgraph.rewrite.shift import Shift
from mlxgraph.run.call import Call, is_stateful
from mlxgraph.run.engine import Engine
from mlxgraph.run.grown import NEVER, Row, row_of
from mlxgraph.run.late import Late
from mlxgraph.run.parts import check_parts
from mlxgraph.run.plan import Plan, Reach, make_plan, reach
from mlxgraph.run.prefix import Prefix, prefix_of
from mlxgraph.run.pushdown import Cut, push_down, stream_entry
from mlxgraph.run.slabs import CannotGrow, Slabs, repeated
from mlxgraph.run.two_passes import AtPositions
from mlxgraph.sweep.positions import Positions
from mlxgraph.sweep.variants import Variant
from mlxgraph.trace.indices import check_given, check_indices
from mlxgraph.trace.numbers import check_numbers, numbers_in
from mlxgraph.trace.spread import is_staged

_NUMBER = re.compile(r"\d+")


class Planned(NamedTuple):
    """A variant that can share a forward with others.

    Attributes:
        row: its run; cut: the positions of the output that it asks for, where no more are needed.
        shift: how it is done to a part of the text, where that is sure; wanted: what is wanted
            where the output is cut.
    """

    row: Row
    cut: Cut | None
    shift: Shift | None
    wanted: tuple[Node, ...] | None

    @property
    def site(self) -> Site | None:
        """Where it joins the others; None where it never differs from what they join."""
        return self.row.site

    @property
    def first(self) -> int:
        """The first position that has to be computed for it alone."""
        if self.shift is None:
            return 0
        return self.shift.first if self.cut is None else min(self.shift.first, self.cut.start)


class _Known(NamedTuple):
    """What is known of a graph on the call, whatever its params.

    Attributes: written: what is done to a part of the text for a later beginning; None where that
        cannot be.
    """

    graph: Graph
    written: Graph | None
    plan: Plan
    cut: Cut | None
    wanted: tuple[Node, ...]
    indices: Any
    numbers: Any


class Shared:
    """One call, for runs that share its forwards.

    Attributes:
        alone: why no two runs can be in one forward, or "".
    """

    def __init__(self, engine: Engine, call: Call):
        self.engine, self.call = engine, call
        self.runner = engine.runner
        self.census = self.runner.census(call)
        self._known: dict[int, _Known] = {}
        self._cuts: dict[tuple[Node, ...], tuple[Cut, tuple[Node, ...]] | None] = {}
        self._prefix: Prefix | str | None = None
        self.alone = self._why_alone()
        self.positions = Positions(engine, call, self.census)

    def _why_alone(self) -> str:
        call, census = self.call, self.census
        if not call.plain or call.given is not None or is_stateful(call, census):
            return "an input carries state"
        if call.turned:
            return "rows of several lengths are padded on the right in this model"
        if not census.traceable:
            return "the forward looks at values while it runs"
        if is_staged(self.engine):
            return "its layers are on several ranks"
        if census.draws:
            return "the forward draws random numbers"
        try:
            repeated(call, 2)
        except CannotGrow as reason:
            return str(reason)
        if not self.runner.runs_on(repeated(call, 2)):
            return "the model does not run on more rows"
        return ""

    @cached_property
    def slabs(self) -> Slabs:
        """Where each run's rows are."""
        return Slabs(self.call, self.census, self.runner.census(repeated(self.call, 2)))

    @cached_property
    def containers(self) -> frozenset[str]:
        """The modules that hold the layers."""
        path = self.engine.names.container or ""
        parts = path.split(".")[:-1]
        return frozenset({"", *(".".join(parts[: k + 1]) for k in range(len(parts)))})

    @cached_property
    def layers(self) -> list[float]:
        """The census position at which each layer ends, in forward order."""
        container = self.engine.names.container
        if container is None:
            own = [s for s in self.census.outputs() if s.path and "." not in s.path]
        else:
            depth = container.count(".") + 1
            own = [
                s
                for s in self.census.outputs()
                if s.path.startswith(container + ".") and s.path.count(".") == depth
            ]
        return [self.census.order[site] for site in own]

    @property
    def length(self) -> int:
        """How many positions the call has."""
        first = self.call.arrays[0] if self.call.arrays else None
        return 1 if first is None or first.ndim < 2 else int(first.shape[1])

    # -- one variant ------------------------------------------------------------------------------

    def planned(self, variant: Variant) -> Planned | None:
        """A variant as a row of a shared forward; None where it has to run alone.

        Raises: what is wrong with the graph on this call, before anything runs.
        """
        known = self._known.get(id(variant.graph))
        if known is None:
            known = self._known[id(variant.graph)] = self._known_of(variant)
        if known.indices:
            check_given(known.indices, known.graph, variant.params, self.call)
        if known.numbers:
            check_numbers(known.numbers, known.graph, variant.params)
        plan = known.plan
        if plan.gradients or plan.draws or not (plan.hooked or plan.calls_modules):
            return None
        sources = source_values(plan.sources, known.graph.constants, variant.params)
        row = row_of(plan, sources, self.census)
        shift = None
        if known.written is not None and not self.alone:
            shift = self.positions.shift(known.written, sources)
        cut_off = None if known.cut is None else known.wanted
        return Planned(row, known.cut, shift, cut_off)

    def _known_of(self, variant: Variant) -> _Known:
        graph, wanted = variant.graph, variant.wanted
        census, runner = self.census, self.runner
        if runner.tree.is_spread:
            check_parts(runner.tree, graph, own_part)
        seen = reach(graph, census, wanted)
        written = graph.replace(writes=seen.writes.items())
        indices = check_indices(written, wanted, census, runner)
        numbers = numbers_in(written, wanted, census, runner)
        pushed = self._pushed(wanted, seen)
        if pushed is not None:
            plan = make_plan(written, census, pushed[1], whole=False)
            saving = _beside_the_output(written, pushed[1])
            return _Known(graph, saving, plan, pushed[0], pushed[1], indices, numbers)
        plan = make_plan(written, census, wanted, whole=False)
        saving = written.replace(saves=[(str(k), node) for k, node in enumerate(wanted)])
        return _Known(graph, saving, plan, None, wanted, indices, numbers)

    def row_from(self, planned: Planned, start: int) -> Row:
        """A variant's run on the text from some position on."""
        if not start:
            return planned.row
        assert planned.shift is not None
        graph, plan = planned.shift.at(start), planned.row.plan
        shifted = dict(graph.saves)
        asked = planned.wanted or tuple(shifted.values())
        wanted = tuple([shifted.get(str(k), node) for k, node in enumerate(asked)])
        return planned.row._replace(plan=plan._replace(writes=dict(graph.writes), saves=wanted))

    def _pushed(self, wanted: tuple[Node, ...], seen: Reach) -> tuple[Cut, tuple[Node, ...]] | None:
        """Where the stream can be cut for what is wanted, which then counts from the cut on."""
        if self.alone:
            return None
        if wanted not in self._cuts:
            self._cuts[wanted] = self._cut_for(wanted)
        found = self._cuts[wanted]
        if found is None:
            return None
        start, order = self.census.order[found[0].norm], self.census.position
        late = [s for s in (*seen.read, *seen.writes) if order(s) >= start and s != Site("")]
        return None if late or Site("") in seen.writes else found

    def _cut_for(self, wanted: tuple[Node, ...]) -> tuple[Cut, tuple[Node, ...]] | None:
        runner, census = self.runner, self.census
        if stream_entry(census, runner.tree) is None:
            return None
        bare = Graph()
        pushed = push_down(bare, wanted, census, runner.tree)
        if pushed is None or runner.pushed(bare, wanted, census, self.call) is None:
            return None
        return pushed.cut, pushed.saves

    def from_position(self, start: int, cut: Cut | None) -> tuple[Call, Cut | None]:
        """The call on the text from a position on, and where its stream is cut there."""
        if self._prefix is None:
            self._prefix = prefix_of(self.runner, self.call)
        assert isinstance(self._prefix, Prefix)
        if cut is not None:
            cut = Cut(cut.norm, cut.start - start, cut.stop - start)
        return self._prefix.call(start), cut

    def late(self, cut: Cut | None, rows: Sequence[Planned], start: int) -> Late | None:
        """The last block at the positions of the cut, where nothing is read or written in it."""
        at = None if cut is None else self.late_at(cut)
        begins = self.last_begins
        if at is None or not all(self.is_before(row, begins) for row in rows):
            return None
        return Late(at, start)

    def late_at(self, cut: Cut) -> AtPositions | None:
        """How the last block runs at some positions alone, where that is sure."""
        return self.runner.last_layer.at(self.census, self.call, cut.start, cut.stop)

    @cached_property
    def last_begins(self) -> float:
        """The census position at which the last block begins, or NEVER."""
        path = self.runner.last_layer.block(self.census)
        return NEVER if path is None else self.census.order[Site(path, INPUTS)]

    def is_before(self, planned: Planned, when: float) -> bool:
        """Whether a variant is done by then, but for what it asks of the output."""
        stops, at = planned.row.plan.stops - {Site("")}, self.census.position
        return all(at(site) < when + (site.port == INPUTS) * STEP for site in stops)

    # -- work -------------------------------------------------------------------------------------

    def layers_after(self, first: float) -> int:
        """How many layers come after a census position, the one that holds it included."""
        return sum(end > first for end in self.layers)


def _beside_the_output(graph: Graph, wanted: Sequence[Node]) -> Graph | None:
    """The graph with what is wanted of other sites than the output, whose positions count from its
    cut already; None where something is of both."""
    output, saves = site_node(""), []
    for k, node in enumerate(wanted):
        sites = {one for one in walk([node]) if one.op == ops.SITE}
        if output not in sites:
            saves.append((str(k), node))
        elif sites != {output}:
            return None
    return graph.replace(saves=saves)


def pattern_of(site: Site | None) -> str:
    """A site with its numbers left out: what is alike in every layer."""
    return "" if site is None else _NUMBER.sub("*", str(site))


def sites_in(rows: Sequence[Planned]) -> list[Site]:
    """The sites of first writes, each once."""
    return list(dict.fromkeys(one.site for one in rows if one.site is not None))
