"""From which position on a variant differs from the unedited run.

In: a graph on a call.  Out: a Shift, or None where it is not sure.  Never: runs anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.rewrite.shift import Shift, shiftable
from mlxgraph.run.along import HAD, NEW, axes_of, of_all_so_far
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.run.short_cache import census_with_cache
from mlxgraph.trace.forwards import text_call


class Positions:
    """The positions of one call of token ids."""

    def __init__(self, engine: Engine, call: Call, census: Census):
        self._engine, self._call, self._census = engine, call, census
        self._axes: dict[Site, Any] = {}
        self._shifts: dict[int, list[tuple[dict[Node, Any], Shift | None]]] = {}
        self._is_text = call.tokens is not None and not call.is_ragged and not call.kwargs

    def shift(self, graph: Graph, sources: Mapping[Node, Any]) -> Shift | None:
        """How a graph is done to a part of the text.  Args: sources: their values in this run."""
        if not self._is_text:
            return None
        known = self._shifts.setdefault(id(graph), [])
        for asked, found in known:
            if all(_whole(sources.get(node)) == answer for node, answer in asked.items()):
                return found
        answers: dict[Node, Any] = {}

        def number(node: Node) -> Any:
            answers[node] = _whole(sources.get(node))
            return answers[node]

        tokens = self._call.tokens
        assert tokens is not None
        found = shiftable(graph, self.axes, self._census.values, tokens.shape[1], number)
        known.append((answers, found))
        return found

    def axes(self, site: Site) -> Any:
        """In place of each array of a site's value the axis of its positions, as `run.along`."""
        if site not in self._axes:
            tokens = self._call.tokens
            assert tokens is not None
            rows, length = tokens.shape
            runner, census = self._engine.runner, self._census
            longer = runner.census(text_call(length + 1, rows))
            inside = census.is_inside(site)
            if inside:
                longer.look_inside()
            axes = axes_of(site, length, census, longer)
            if inside or any(isinstance(one, frozenset) for one in leaves(axes)):
                short = census_with_cache(runner, rows, HAD, NEW)
                axes = axes if short is None else of_all_so_far(site, axes, short)
            self._axes[site] = axes
        return self._axes[site]


def _whole(value: Any) -> Any:
    """The whole number, or numbers, that a value is; None of anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, ARRAY) and mx.issubdtype(value.dtype, mx.integer) and value.ndim < 2:
        return value.tolist()
    return None
