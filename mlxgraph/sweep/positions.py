"""From which position on a variant differs from the unedited run.

In: a graph on a call.  Out: a Shift, or None where it is not sure.  Never: runs anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import holds_nothing, is_followed
from mlxgraph.rewrite.shift import Shift, shiftable
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.run.text_axes import text_axes


class Positions:
    """The positions of one call of token ids."""

    def __init__(self, engine: Engine, call: Call, census: Census):
        self._engine, self._call, self._census = engine, call, census
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
        return text_axes(self._engine.runner, self._call)(site)


def _whole(value: Any) -> Any:
    """The whole number, or numbers, that a value is; None of anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, ARRAY) and mx.issubdtype(value.dtype, mx.integer) and value.ndim < 2:
        return None if is_followed(value) or holds_nothing(value) else value.tolist()
    return None
