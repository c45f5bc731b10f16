"""One forward in Python: the model's own code, with the plan's edits made on the way.

In: a tree, a plan, the inputs, the values of the graph's leaves.  Out: the saved values, lazy.
The same function is run eagerly, is traced by `mx.compile`, and serves the looks.
Never: evaluates an array.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import INPUTS, OUTPUT, SKIP, Site
from mlxgraph.run.gradient import Deltas, add_delta, with_gradients
from mlxgraph.run.ops import Lookup, Values, handle_on, thaw
from mlxgraph.run.plan import Plan
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree

Forward = Callable[[Any, tuple, dict[str, Any]], Any]


class Stop(BaseException):
    """Everything that was asked for is known: the rest of the forward is not run.

    Not an `Exception`, so that no model's own `except Exception` holds it up.
    """


def call_model(model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The plain forward."""
    return model(*args, **kwargs)


def run_plan(
    plan: Plan,
    known: dict[Node, Any],
    tree: ModuleTree,
    forward: Forward,
    args: tuple,
    kwargs: dict[str, Any],
    weights: Sequence[mx.array] | None = None,
) -> list[Any]:
    """The values of a plan's saves, lazy.

    Args: known: the values of the plan's leaves; weights: arrays to use in place of the tree's.
    """

    def once(deltas: Deltas) -> Values:
        return Run(plan, dict(known), deltas).go(tree, forward, args, kwargs, weights)

    values = with_gradients(plan, once) if plan.gradients else once({})
    return [handle_on(values[node]) for node in plan.saves]


class Run:
    """The state of one forward: what has been seen so far, and what each call must answer."""

    def __init__(self, plan: Plan, known: dict[Node, Any], deltas: Deltas | None = None):
        self.plan = plan
        self.deltas = deltas or {}
        self.values = Values(known, self._call_module, self._shifted if deltas else None)
        self.seen: Counter[str] = Counter()
        self.bypass = False
        self.modules: dict[str, Any] = {}

    def go(
        self,
        tree: ModuleTree,
        forward: Forward,
        args: tuple,
        kwargs: dict[str, Any],
        weights: Sequence[mx.array] | None,
    ) -> Values:
        """Run the forward as far as the plan needs it."""
        if self.plan.hooked or self.plan.calls_modules:
            standin = StandIn(tree, self.plan.hooked, self._answer, weights)
            self.modules = standin.modules
            if self.plan.hooked:
                try:
                    forward(standin.root, args, kwargs)
                except Stop:
                    pass
        return self.values

    def _shifted(self, node: Node, value: Any) -> Any:
        """A node's value with the zero that its gradient is taken at."""
        delta = self.deltas.get(node)
        return value if delta is None else add_delta(value, delta)

    def _answer(
        self, path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """What a hooked module's call returns."""
        if self.bypass:
            return original(*args, **kwargs)
        call = self.seen[path]
        self.seen[path] += 1
        before, after = Site(path, INPUTS, call), Site(path, OUTPUT, call)
        if before in self.plan.stops:
            args, kwargs = self._pass(before, (args, kwargs))
        skip = self.plan.writes.get(Site(path, SKIP, call))
        result = original(*args, **kwargs) if skip is None else handle_on(self.values[skip])
        if after in self.plan.stops:
            result = self._pass(after, result)
        return result

    def _pass(self, site: Site, value: Any) -> Any:
        """Keep the value that the model has at a site, and give back the edited one."""
        if site in self.plan.read:
            node = site_node(*site)
            value = self._shifted(node, value)
            self.values.known[node] = handle_on(value)
        write = self.plan.writes.get(site)
        if write is not None:
            value = handle_on(self.values[write])
        if site == self.plan.last:
            raise Stop
        return value

    def _call_module(self, node: Node, lookup: Lookup) -> Any:
        """A module called by hand: as it is, without this run's edits."""
        module = self.modules[node.args[0]]
        args = handle_on([thaw(value, lookup) for value in node.args[1:]])
        kwargs = {name: thaw(value, lookup) for name, value in node.kwargs}
        outer, self.bypass = self.bypass, True
        try:
            return module(*args, **kwargs)
        finally:
            self.bypass = outer
