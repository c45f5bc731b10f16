"""Whether a forward of a generation is what its graph takes it for.

A graph was recorded on the whole text.  Where a forward on a part of it has values of another form,
an axis that was found then means something else.  Asked of what the graph uses, once for a plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import Along
from mlxgraph.graph.nested import entry, is_container, leaves
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY


class Used:
    """What of each site's value a graph uses: all of it, or entries."""

    def __init__(self, graph: Graph):
        self._entries: dict[Node, set[Node]] = defaultdict(set)
        self._whole = {node for _, node in graph.saves}
        for node in graph.nodes():
            for child in node.inputs:
                if node.op == ops.ITEM and child is node.args[0]:
                    self._entries[child].add(node)
                elif not (node.op == ops.PUT and child is node.args[0]):
                    self._whole.add(child)

    def is_as_recorded(
        self, site: Site, value: Any, recorded: Any, axes: Any, shape: tuple[int, ...], rows: int
    ) -> bool:
        """Whether a value has the form that the graph expects.

        Args: shape: of the forward's tokens; rows: of the tokens that were recorded.
        """
        for mine, before, axis in self._parts(site_node(*site), value, recorded, axes):
            if not isinstance(before, ARRAY) or not isinstance(axis, (int, Along)):
                continue
            wanted = [*before.shape]
            held = axis.held if isinstance(axis, Along) else axis
            if held is not None:
                wanted[held] = shape[1]
            if isinstance(axis, Along) and isinstance(mine, ARRAY) and mine.ndim == len(wanted):
                wanted[axis.grown] = mine.shape[axis.grown]
            own = (held, getattr(axis, "grown", None))
            if before.shape[0] == rows and -len(wanted) not in own:
                wanted[0] = shape[0]
            if not isinstance(mine, ARRAY) or mine.shape != tuple(wanted):
                return False
        return True

    def _parts(
        self, node: Node, value: Any, recorded: Any, axes: Any
    ) -> Iterator[tuple[Any, Any, Any]]:
        """The arrays that are used: as they are, as they were recorded, and their axes."""
        if not is_container(recorded):
            yield value, recorded, axes
            return
        if node in self._whole:
            mine, before = leaves(value), leaves(recorded)
            if len(mine) != len(before):
                mine = [None] * len(before)
            yield from zip(mine, before, leaves(axes), strict=True)
            return
        for child in self._entries[node]:
            key = child.args[1]
            try:
                inner = entry(value, key)
            except (KeyError, IndexError, AttributeError, TypeError):
                inner = None
            yield from self._parts(child, inner, entry(recorded, key), entry(axes, key))
