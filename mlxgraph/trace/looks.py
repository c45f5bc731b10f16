"""Looks: real values inside a block that is still open.

One lazy run of what was recorded so far serves all looks until the next write.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mlxgraph.errors import UnboundParamError
from mlxgraph.evaluate.evaluate import Lookup, call_arguments
from mlxgraph.evaluate.values import Values, source_values
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, is_draw, site_node, site_of, walk
from mlxgraph.mlx_facts import random_state
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import paused
from mlxgraph.run.engine import Engine
from mlxgraph.trace.execute import Job, execute


class Looks:
    """The real values of one open block.

    Args: job: what a run of a graph on the block's inputs is, leaving no mark on these.
    """

    def __init__(self, engine: Engine, job: Callable[[Graph], Job]):
        self._engine = engine
        self._job = job
        self._writes: frozenset | None = None
        self._values: Values | None = None
        self._weights: list[Any] = []  # weakly: those that the values are of

    def forget(self) -> None:
        """Let go of the values of the last run."""
        self._writes = self._values = None

    def look(self, recording: Recording, node: Node) -> Any:
        """The real value of a node.  Raises: UnboundParamError for a param without a value."""
        recording.check_escapes()
        graph = recording.graph()
        job = self._job(graph)
        missing = [n for n in graph.params if n not in job.params]
        missing += [
            n.args[0] for n in walk([node]) if n.op == ops.PARAM and n.args[0] not in job.params
        ]
        if missing:
            raise UnboundParamError(dict.fromkeys(missing))
        drawn = [n for n in walk([node]) if is_draw(n) or ops.is_random(n.op)]
        census = recording.census
        sites = [n for n in walk([node]) if n.op == ops.SITE]
        if census.traceable:  # else an edit may lead the forward past all other sites
            sites = [n for n in sites if census.inside and census.is_inside(site_of(n))]
        drawn += sites
        known = self._values is not None and all(n in self._values.known for n in drawn)
        known = known and self._engine.runner.tree.are_weights(self._weights)
        if self._values is None or not known or self._writes != frozenset(graph.writes):
            self._values = self._run(recording, job, drawn)
            self._writes = frozenset(graph.writes)
            self._weights = self._engine.runner.tree.seen_now()
        sources = walk([*graph.roots, node])
        self._values.known.update(source_values(sources, recording.constants, job.params))
        with paused():
            return self._values[node]

    def _run(self, recording: Recording, job: Job, looked: list[Node]) -> Values:
        """Every module's site and every draw of one run, lazy; the random state stays as it was.

        Of sites inside modules, and of a forward that branches on values, those that are `looked`
        at alone.
        """
        before = random_state.current()
        drawn = [n for n in job.graph.nodes() if is_draw(n) or ops.is_random(n.op)]
        drawn = list(dict.fromkeys([*drawn, *looked]))
        census = recording.census
        sites = [site_node(*site) for site in census.of_modules()] if census.traceable else []
        values = execute(self._engine, job, [*sites, *drawn])
        random_state.restore(before)
        return Values(
            dict(zip([*sites, *drawn], values, strict=True)), partial(_call_module, self._engine)
        )


def _call_module(engine: Engine, node: Node, lookup: Lookup) -> Any:
    """A module called by hand; what it draws leaves the random state as it was."""
    path, args, kwargs = call_arguments(node, lookup)
    before = random_state.current()
    try:
        with engine.runner.tree.beyond.as_it_was():
            return engine.runner.modules()[path](*args, **kwargs)
    finally:
        random_state.restore(before)
