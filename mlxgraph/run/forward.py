"""One forward in Python: the model's own code, with the plan's edits made on the way.

In: a tree, a plan, the inputs, the values of the graph's sources.  Out: the saved values, lazy.
The same function is run eagerly, is traced by `mx.compile`, and serves the looks.
Never: evaluates an array.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx

from mlxgraph.evaluate.evaluate import Lookup, call_arguments, same_data_in
from mlxgraph.evaluate.values import Values
from mlxgraph.graph.nested import entries, is_container, rebuilt
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import INPUTS, OUTPUT, SKIP, Site
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.arrays import in_a_buffer_of_its_own, same_data
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.answering import Stop, ValuesInside, answering, go_through
from mlxgraph.run.call import Call
from mlxgraph.run.draws import Draws
from mlxgraph.run.gradient import Deltas, add_delta, unreached, with_gradients
from mlxgraph.run.inside import Watch
from mlxgraph.run.other_ways import check_inside, check_reached, check_value
from mlxgraph.run.plan import Plan, numbers_in
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree
from mlxgraph.run.turned import Turning


def run_plan(
    plan: Plan,
    known: dict[Node, Any],
    tree: ModuleTree,
    call: Call,
    weights: Sequence[mx.array] | None = None,
) -> list[Any]:
    """The values of a plan's saves, lazy.

    Args: known: the values of the plan's sources; weights: arrays to use in place of the tree's.
    """

    draws = Draws(plan.drawn) if plan.drawn else None

    def once(deltas: Deltas) -> Values:
        if draws is not None:
            draws.begin()
        return Run(plan, dict(known), deltas, draws).go(tree, call, weights)

    try:
        with tree.beyond.as_it_was():
            values = with_gradients(plan, once) if plan.gradients else once({})
            saves = saved(plan, values)
    except BaseException:
        if draws is not None:
            draws.undo()
        raise
    if draws is not None:
        draws.finish()
    return saves


def saved(plan: Plan, values: Values) -> list[Any]:
    """The values of a plan's saves, each on array objects of its own."""
    return [
        same_data_in(values[node]) if base is None else _part(values, node, base)
        for node, base in zip(plan.saves, plan.cut_from, strict=True)
    ]


def _part(values: Values, node: Node, bases: Sequence[Node]) -> Any:
    """A saved part of a larger array, which is not to keep the whole of it.

    One that is most of it shares its data: a copy would cost more than it frees.
    """
    value = values[node]
    if not isinstance(value, ARRAY):
        return same_data_in(value)
    whole = max([numbers_in(values.known.get(base)) for base in bases], default=0)
    return same_data(value) if 0 < whole < 2 * value.size else in_a_buffer_of_its_own(value)


def gradient_of_nothing(
    plan: Plan, known: dict[Node, Any], tree: ModuleTree, call: Call
) -> Node | None:
    """A gradient node whose loss does not depend on its value, if the plan has one.

    Not asked of functions that may look at values: they would run once more for it.
    """
    if not plan.gradients or plan.opaque:
        return None

    def under(plan: Plan) -> Callable[[Deltas], Values]:
        return lambda deltas: Run(plan, dict(known), deltas).go(tree, call, None)

    before = random_state.current()
    try:
        with tree.beyond.as_it_was():
            return unreached(plan, under(plan), under(plan._replace(writes={})))
    finally:
        random_state.restore(before)


class ByHand:
    """Calls modules by hand, on a run's values: as they are, without the run's edits.

    Args: modules: by path; empty until the forward's stand-in is made.
    Attributes: under_way: whether a module is being called just now.
    """

    __slots__ = ("modules", "under_way")

    def __init__(self) -> None:
        self.modules: Mapping[str, Any] = {}
        self.under_way = False

    def __call__(self, node: Node, lookup: Lookup) -> Any:
        path, given, kwargs = call_arguments(node, lookup)
        module = self.modules[path]
        args = same_data_in(given)
        outer, self.under_way = self.under_way, True
        try:
            return module(*args, **kwargs)
        finally:
            self.under_way = outer


class Run:
    """The state of one forward: what has been seen so far, and what each call must answer."""

    def __init__(
        self,
        plan: Plan,
        known: dict[Node, Any],
        deltas: Deltas | None = None,
        draws: Draws | None = None,
    ):
        self.plan = plan
        self.by_hand = ByHand()
        self.shifted = partial(_shifted, deltas) if deltas else None
        self.values = Values(
            known,
            self.by_hand,
            self.shifted,
            draws.make if draws is not None else None,
        )
        self.seen: Counter[str] = Counter()
        self.reached: set[Site] = set()
        self.turning: Turning | None = None

    def go(self, tree: ModuleTree, call: Call, weights: Sequence[mx.array] | None) -> Values:
        """Run the forward as far as the plan needs it."""
        if call.turned:
            self.turning = Turning(self.plan.turns, call.args[1])
        if self.plan.hooked or self.plan.calls_modules:
            hook, inside = answering(self), self.plan.inside
            watch = (
                Watch(tree, hook, ValuesInside(self), inside, self.plan.written) if inside else None
            )
            standin = StandIn(tree, self.plan.hooked, watch.module if watch else hook, weights)
            self.by_hand.modules = standin.modules
            if self.plan.hooked:
                go_through(tree, call, standin, watch)
                if self.plan.expected is not None:
                    check_reached(self.plan.expected, self.reached)
                if inside:
                    check_inside(self.plan, self.seen)
        return self.values

    def answer(
        self, path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """What a hooked module's call returns."""
        if self.by_hand.under_way:
            return original(*args, **kwargs)
        call = self.seen[path]
        self.seen[path] += 1
        before, after = Site(path, INPUTS, call), Site(path, OUTPUT, call)
        if before in self.plan.stops:
            args, kwargs = self.through(before, (args, kwargs))
        skip = self.plan.writes.get(Site(path, SKIP, call))
        if skip is not None:
            self.reached.add(Site(path, SKIP, call))
        if skip is None:
            at = self.plan.last_layer
            if at is None or at.path != path:
                result = original(*args, **kwargs)
            else:
                result = at.run(original, args, kwargs)
        else:
            result = same_data_in(self.values[skip])
            if self.turning is not None:
                result = self.turning.back(after, result)
        if after in self.plan.stops:
            result = self.through(after, result)
        return result

    def stops_at(self, site: Site) -> bool:
        """Whether a value is read or written."""
        return site in self.plan.stops

    def computes_from(self, site: Site) -> bool:
        """Whether what follows has to be computed from what is answered."""
        return site in self.plan.writes or (self.plan.gradients and site in self.plan.read)

    def through(self, site: Site, value: Any) -> Any:
        """Keep the value that the model has at a site, and give back the edited one."""
        if self.turning is None:
            return self._edited(site, value)
        shown = self.turning.shown(site, value)
        return self.turning.changed(site, value, shown, self._edited(site, shown))

    def _edited(self, site: Site, value: Any) -> Any:
        if self.plan.expected is not None:
            self.reached.add(site)
            check_value(site, value, self.plan.expected[site])
        if site in self.plan.read:
            node = site_node(*site)
            value = value if self.shifted is None else self.shifted(node, value)
            self.values.known[node] = kept = same_data_in(value)
        write = self.plan.writes.get(site)
        if write is not None:
            edited = self.values[write]
            if site in self.plan.read:
                value = _changed_where(value, kept, edited)
            else:
                value = same_data_in(edited)
        if site == self.plan.last:
            raise Stop
        return value


def _shifted(deltas: Deltas, node: Node, value: Any) -> Any:
    """A node's value with the zero that its gradient is taken at."""
    delta = deltas.get(node)
    return value if delta is None else add_delta(value, delta)


def _changed_where(value: Any, kept: Any, edited: Any) -> Any:
    """What a module is given or gives, with what was written: the rest are the objects themselves,
    in which the model's own code may leave something for whoever looks later."""
    if not is_container(value) or not is_container(edited):
        return value if edited is kept else same_data_in(edited)
    mine, same, theirs = entries(value), entries(kept), entries(edited)
    if [key for key, _ in mine] != [key for key, _ in theirs]:
        return same_data_in(edited)
    parts = [
        _changed_where(a, b, c) for (_, a), (_, b), (_, c) in zip(mine, same, theirs, strict=True)
    ]
    if all(part is own for part, (_, own) in zip(parts, mine, strict=True)):
        return value
    return rebuilt(edited, parts)
