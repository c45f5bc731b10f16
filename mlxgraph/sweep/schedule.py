"""What a sweep will do, as a value: its variants in groups, each done one way, chunk by chunk.

    variants -- each checked on the call, and planned
       |
    grown    -- one batch that grows on the way, where that is certain
    batched  -- a batch from the start, where only that is
    alone    -- a forward each, where nothing is

In: variants on one call.  Out: what each wants, evaluated.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.errors import InputError
from mlxgraph.graph.nested import leaves
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.stack import paused
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.run.grown import NEVER
from mlxgraph.run.prefix import why_no_prefix
from mlxgraph.run.pushdown import Cut
from mlxgraph.run.slabs import repeated
from mlxgraph.sweep.batch import Batch, run_batch
from mlxgraph.sweep.certain import (
    agrees,
    all_alike,
    why_not_batched,
    why_not_grown,
    why_not_grown_later,
)
from mlxgraph.sweep.common import Common, common_to, joining
from mlxgraph.sweep.cost import Costs, Work, memory_for_a_forward
from mlxgraph.sweep.explained import Forward, Told, forward_of, prefix_forward
from mlxgraph.sweep.pace import Pace
from mlxgraph.sweep.shared import Planned, Shared, pattern_of
from mlxgraph.sweep.split import starts
from mlxgraph.sweep.variants import Variant
from mlxgraph.trace.execute import Job, Options, execute

OF_RANKS = 1 << 30  # bytes that a forward of several machines may take: the same on each
GROWN, BATCHED, ALONE = "grown", "batched", "alone"
APART = "they take gradients, draw random numbers, or need nothing of the model"


class Group(NamedTuple):
    """Variants that are done one way.

    Attributes: numbers: of the variants, those that join first before others; cut: what of the
        output is computed; reason: why not a better way; start: the first position computed;
        common: what most of them write alike.
    """

    way: str
    numbers: list[int]
    cut: Cut | None = None
    reason: str = ""
    start: int = 0
    common: Common = Common()

    @property
    def kept(self) -> int | None:
        """How many positions the head sees; None for all of them."""
        return None if self.cut is None else self.cut.stop - self.cut.start


class Schedule:
    """The runs of a sweep.

    Args: first: the number of a variant that is to be done before others, if any.
    Attributes: values: of each variant what it wants, once that was computed; else None.
        elsewhere: numbers of variants that are done by someone else.
    """

    def __init__(
        self,
        engine: Engine,
        call: Call,
        variants: Sequence[Variant],
        batch_size: int | None = None,
        memory_limit: int | None = None,
        first: int | None = None,
    ):
        _check(batch_size, "batch_size")
        _check(memory_limit, "memory_limit")
        self._engine, self._call, self.variants = engine, call, variants
        self._batch_size = batch_size
        spread = engine.runner.tree.is_spread
        self._limit = memory_limit or (OF_RANKS if spread else memory_for_a_forward())
        self.values: list[list[Any] | None] = [None] * len(variants)
        self.elsewhere: Collection[int] = ()
        with paused():
            self.shared = Shared(engine, call)
            self._planned = [self.shared.planned(variant) for variant in variants]
            self.costs = None if self.shared.alone else Costs(self.shared)
            self.groups = self._grouped()
        self._urgent = first
        self._pace = Pace(steady=spread)

    # -- which way --------------------------------------------------------------------------------

    def _grouped(self) -> list[Group]:
        numbers = range(len(self.variants))
        if self.shared.alone:
            return [Group(ALONE, [*numbers], reason=self.shared.alone)]
        together: dict[Any, list[int]] = {}
        alone = []
        for number in numbers:
            planned = self._planned[number]
            if planned is None:
                alone.append(number)
            else:
                together.setdefault(planned.cut, []).append(number)
        groups = [one for cut, some in together.items() for one in self._certain(cut, some)]
        if alone:
            groups.append(Group(ALONE, alone, reason=APART))
        return groups

    def _certain(self, cut: Cut | None, numbers: list[int]) -> Iterator[Group]:
        """Variants with one cut by what is certain of them: told apart by where they join."""
        if len(numbers) == 1:
            yield Group(ALONE, numbers, cut, "it is one run")
            return
        common = common_to(self.shared, [self.plan(number) for number in numbers])
        kinds: dict[str, list[int]] = {}
        for number in numbers:
            self._planned[number] = joining(self.shared, self.plan(number), common)
            kinds.setdefault(pattern_of(self.plan(number).site), []).append(number)
        grown: list[int] = []
        rest: list[int] = []
        reason = "several texts of different lengths" if self._call.is_ragged else ""
        for some in kinds.values():
            sites = [site for n in some if (site := self.plan(n).site) is not None]
            why = reason or why_not_grown(self.shared, sites)
            (rest if why else grown).extend(some)
            reason = reason or why
        for part in self._by_last_layer(cut, grown):
            if part:
                yield from self._by_position(Group(GROWN, part, cut, common=common))
        if rest:
            why = why_not_batched(self.shared)
            yield Group(ALONE if why else BATCHED, sorted(rest), cut, why or reason)

    def _by_position(self, group: Group) -> Iterator[Group]:
        """Runs in one growing batch, or in several that begin at later positions."""
        costs, depths = self.costs, dict[int, int]()
        assert costs is not None
        numbers = sorted(group.numbers, key=lambda n: (self.plan(n).row.first, n))
        for number in numbers:
            plan = self.plan(number)
            first = int(min(self._begins(group, number), costs.length - 1))
            depth = self.shared.layers_after(plan.row.first)
            depths[first] = depths.get(first, 0) + depth
        at = starts(depths, costs.length, costs.layers, costs.rows, costs.forward)
        why = ""
        if at != [0]:
            sites = [site for n in numbers if (site := self.plan(n).site) is not None]
            why = why_no_prefix(self.shared.runner, self._call)
            why = why or why_not_grown_later(self.shared, sites)
        if why:
            at = [0]
        for begin, end in zip(at, [*at[1:], costs.length + 1], strict=True):
            some = [
                n for n in numbers if begin <= min(self.plan(n).first, group.common.first) < end
            ]
            if some:
                yield self._cheapest(group._replace(numbers=some, reason=why, start=begin))

    def _begins(self, group: Group, number: int) -> float:
        """The first position that a variant needs for itself, or that what it joins edits."""
        return min(self.plan(number).first, group.common.first)

    def _by_last_layer(self, cut: Cut | None, numbers: list[int]) -> list[list[int]]:
        """Those that leave the last layer alone, which then runs at few positions, and the others;
        all together where that costs less than one forward more."""
        costs = self.costs
        assert costs is not None
        if cut is None or not self.shared.late_at(cut):
            return [numbers]
        begins = self.shared.last_begins
        early = [n for n in numbers if self.shared.is_before(self.plan(n), begins)]
        spared = [costs.length - self.plan(n).first - (cut.stop - cut.start) for n in early]
        if sum(spared) * costs.rows <= costs.layers * (costs.forward + costs.length):
            return [numbers]
        rest = set(early)
        return [early, [n for n in numbers if n not in rest]]

    def _cheapest(self, group: Group) -> Group:
        """A group, or the same runs in a way that is less work: there is nothing to share where all
        write in the first layer."""
        assert self.costs is not None
        loop = len(group.numbers) * self.costs.alone(group.kept).all
        if self._work(group, group.numbers).all <= loop:
            return group
        few = group._replace(start=0, reason="they have nothing in common to share")
        if len(group.numbers) == 1 or why_not_batched(self.shared):
            return few._replace(way=ALONE)
        return few._replace(way=BATCHED)

    def plan(self, number: int) -> Planned:
        """How a variant is done with others."""
        planned = self._planned[number]
        assert planned is not None
        return planned

    # -- doing it ---------------------------------------------------------------------------------

    def steps(self) -> Iterator[list[int]]:
        """Do what is left to do; after each step the numbers of the variants that are done by it.

        Stopped at any moment, it goes on from there when it is asked again.
        """
        while group := self._next():
            left = self._left(group.numbers)
            chunk = left[: self.size_of_a_chunk(group)]
            if self._urgent in left and self._urgent not in chunk:
                chunk = sorted([*chunk[:-1], self._urgent], key=left.index)
            key = random_state.current()
            self._do(group, chunk)
            if group.reason != APART and self._opaque_in(chunk) and random_state.moved(key):
                chunk = self._in_order(chunk, key)
            yield chunk

    def _next(self) -> Group | None:
        """The next group of which something is left to do."""
        left = [group for group in self.groups if self._left(group.numbers)]
        if self._urgent is not None and self.values[self._urgent] is None:
            left.sort(key=lambda group: self._urgent not in group.numbers)
        return left[0] if left else None

    def _left(self, numbers: Iterable[int]) -> list[int]:
        return [n for n in numbers if self.values[n] is None and n not in self.elsewhere]

    @property
    def drawing(self) -> set[int]:
        """Numbers of those that draw random numbers, may do so, or take gradients: they are done in
        one order, by one process."""
        count = range(len(self.variants))
        if self.shared.census.draws:
            return set(count)
        return {n for n in count if self._planned[n] is None} | {*self._opaque_in([*count])}

    def _opaque_in(self, chunk: list[int]) -> list[int]:
        """Those that run functions of the user, which are not known to draw random numbers."""
        plans = [(number, self._planned[number]) for number in chunk]
        return [number for number, plan in plans if plan is not None and plan.row.plan.opaque]

    def _in_order(self, chunk: list[int], key: mx.array) -> list[int]:
        """A user's function has drawn random numbers: what runs such functions goes one by one,
        with all else that draws, in the order of a loop.

        Returns: those of the chunk that are done.
        """
        random_state.restore(key)
        for number in self._opaque_in(chunk):
            self.values[number] = None
        left = self._left(range(len(self.variants)))
        moved = {*self._opaque_in(left), *(n for n in left if self._planned[n] is None)}
        groups = [
            group._replace(numbers=[n for n in group.numbers if n not in moved])
            for group in self.groups
        ]
        self.groups = [*groups, Group(ALONE, sorted(moved), reason=APART)]
        return [number for number in chunk if number not in moved]

    def size_of_a_chunk(self, group: Group) -> int:
        """How many variants of a group the next forward takes."""
        if group.way == ALONE or self.costs is None:
            return 1
        most = self._limit // self.costs.bytes_of_a_row(group.start, group.kept) - 1
        tokens = self.costs.rows * (self.costs.length - group.start)
        most = min(most, self._pace.size(tokens), self._batch_size or most)
        return max(1, most)

    def _do(self, group: Group, chunk: list[int]) -> None:
        if group.way != ALONE:
            began = time.perf_counter()
            try:
                found = self._together(group, chunk)
            except Exception:  # one by one each says for itself what is wrong, if something is
                found = None
            if found is not None and self._agrees(group, chunk, found):
                for number, values in zip(chunk, found, strict=True):
                    self.values[number] = values
                work = self._work(group, chunk)
                self._pace.took(len(chunk), work.all, time.perf_counter() - began)
                return
        for number in chunk:
            self.values[number] = self._alone(self.variants[number])

    def _agrees(self, group: Group, chunk: list[int], found: list[list[Any]]) -> bool:
        """Whether the first of a batch is what it is alone, tried once for each kind of batch."""
        functions = self._opaque_in(chunk)
        at = next((k for k, number in enumerate(chunk) if number not in functions), None)
        if at is None:
            return True
        kind = group.way, group.start > 0, group.cut, len(chunk).bit_length()
        variant = self.variants[chunk[at]]
        return agrees(self.shared, kind, lambda: all_alike(found[at], self._alone(variant)))

    def _together(self, group: Group, chunk: list[int]) -> list[list[Any]]:
        shared = self.shared
        call, cut = shared.call, group.cut
        with paused():
            plans = [self.plan(number) for number in chunk]
            rows = [shared.row_from(plan, group.start) for plan in plans]
            if group.way == BATCHED:
                rows = [row._replace(first=NEVER) for row in rows]
                call = repeated(call, len(rows))
            if group.start:
                call, cut = shared.from_position(group.start, cut)
            late = shared.late(group.cut, plans, group.start)
            base = group.common.at(group.start) if group.way == GROWN else None
            return run_batch(shared, Batch(rows, call, cut, base, late))

    def _alone(self, variant: Variant) -> list[Any]:
        job = Job(variant.graph, self._call.again(), variant.params, Options())
        values = execute(self._engine, job, variant.wanted)
        _evaluate(values)
        return values

    # -- what it costs ----------------------------------------------------------------------------

    def told(self) -> Told:
        """What all of it will do, as far as can be told before: later batches may be made larger or
        smaller by what the first ones take."""
        costs, count = self.costs, len(self.variants)
        layers, length = max(len(self.shared.layers), 1), self.shared.length
        forwards: list[Forward] = []
        for group in self.groups:
            size = self.size_of_a_chunk(group)
            for at in range(0, len(group.numbers), size):
                chunk = group.numbers[at : at + size]
                if costs is None or group.way == ALONE:
                    work = Work(layers * length, 0.0) if costs is None else costs.alone(group.kept)
                    forwards.append(Forward(ALONE, 1, 0, length, 1, work, 0, group.reason))
                    continue
                own = group.way, len(chunk), group.start, group.kept
                forwards.append(forward_of(costs, *own, self._work(group, chunk), group.reason))
        if costs is None:
            return Told(count, layers, length, forwards, None, None, None, self._limit)
        if any(group.start for group in self.groups):
            forwards.insert(0, prefix_forward(costs))
        plans = [plan for plan in self._planned if plan is not None]
        kepts = {group.kept for group in self.groups if group.way != ALONE}
        kept = kepts.pop() if len(kepts) == 1 else None
        least = costs.least(plans, kept, self._is_late)
        alone = sum((costs.alone(kept) for _ in self.variants), Work(0.0, 0.0))
        head = None if kept is None else (kept, length)
        return Told(count, layers, length, forwards, alone, least, head, self._limit)

    def _is_late(self, plan: Planned) -> bool:
        """Whether the last layer of a run is needed at the positions of its cut alone."""
        if plan.cut is None or self.shared.late_at(plan.cut) is None:
            return False
        return self.shared.is_before(plan, self.shared.last_begins)

    def _work(self, group: Group, chunk: Sequence[int]) -> Work:
        assert self.costs is not None
        rows = [self.plan(number) for number in chunk]
        late = all(map(self._is_late, rows))
        return self.costs.grown(rows, group.start, group.kept, group.way == GROWN, late)


def _evaluate(values: Any) -> None:
    mx.eval([leaf for leaf in leaves(values) if isinstance(leaf, ARRAY)])


def _check(number: Any, name: str) -> None:
    if number is None:
        return
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InputError(f"{name} is a whole number from 1 on, not {number!r:.40}.")
