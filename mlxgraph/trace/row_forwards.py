"""The forwards of a generation from several texts: a graph of one text, done to every row.

In: which texts are in a forward, and which columns are theirs.  Out: what the model returns, and
the saves of each text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.algebra import draws
from mlxgraph.graph.held import Along, Window
from mlxgraph.graph.nested import is_container, leaves, unflatten
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.rewrite.positions import Keep, Save
from mlxgraph.rewrite.rows_joined import Row, Sites, joined
from mlxgraph.trace.forwards import Forwards, text_call
from mlxgraph.trace.indices import line_of

_ENTRY_BY_ENTRY = (
    ops.ELEMENTWISE | ops.SOURCES | {ops.FULL_LIKE, ops.ASTYPE_LIKE, ops.BROADCAST_LIKE}
)


class RowForwards(Forwards):
    """As `Forwards`, with several texts in each forward."""

    def rows(
        self, rows: Sequence[tuple[Row, Window]], args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Any, list[tuple[int, Save, Any]]]:
        """What the model returns, and each save with the number of its text.

        Raises: PartOfTextError, and whatever the model raises.
        """
        count = args[0].shape[1]
        if self._is_for_all and self.text.is_the_same_everywhere(count):
            return self(Window(0, count, count, 1), args, kwargs)[0], []
        key = tuple((row, self.text.key(window)) for row, window in rows)
        planned = self._plans.get(key)
        if planned is None:
            lowered = [(row, self.text.at(window)) for row, window in rows]
            sites = Sites(self.axes_of, self._rows_of, self._line)
            together = joined(lowered, sites, draws(self.graph))
            keep = [keep for _, keep in together.keep]
            planned = self._made(together, keep, [save for _, save in together.saves])
            if not any(one.exact for _, one in lowered):
                self._plans.put(key, planned)
        output, found = self._run(planned, args, kwargs, 0)
        return output, [(text, save, value) for (text, save), value in found]

    @cached_property
    def _is_for_all(self) -> bool:
        """Whether what is done to one row, done to the batch, is done to each: entry by entry, with
        nothing to give back."""
        nodes = self.graph.nodes()
        return not self.graph.saves and all(node.op in _ENTRY_BY_ENTRY for node in nodes)

    @staticmethod
    def _named(keep: Any) -> tuple[Any, Keep]:
        text, own = keep
        return (text, own.known), own

    def _line(self, node: Node) -> str:
        return line_of(self.graph, node)

    def _rows_of(self, site: Site) -> Any:
        """In place of each array of a site's value whether its first axis is the batch's."""
        two = self._engine.runner.census(text_call(self._length, 2))
        if self._census.is_inside(site):
            two.look_inside()
        value, other = self._census.values[site], two.values.get(site)
        axes = self.axes_of(site)
        if not is_container(value):
            return _has_rows(value, other, axes)
        mine, theirs = leaves(value), leaves(other)
        if len(mine) != len(theirs):
            return unflatten(value, [False] * len(mine))
        found = map(_has_rows, mine, theirs, leaves(axes))
        return unflatten(value, list(found))


def _has_rows(value: Any, other: Any, axis: Any) -> bool:
    if not isinstance(value, ARRAY) or not isinstance(other, ARRAY) or value.ndim < 2:
        return False
    if isinstance(axis, (frozenset, Along)) or axis == -value.ndim:
        return False  # a pattern's keys are the batch's, padding and all
    return value.shape[0] == 1 and other.shape == (2, *value.shape[1:])
