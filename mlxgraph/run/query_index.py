"""What an index takes of an axis, and the shapes that nodes will have.

For whoever plans (`run.query_blocks`).  In: an index, a node, a census.  Out: ranges, arrays of
zeros in the right shapes, and None for what is not known before the run.
Never: computes anything.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.evaluate.evaluate import evaluate
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import map_nested
from mlxgraph.graph.node import Node, is_draw, site_of, walk
from mlxgraph.graph.values import FULL, FrozenList, Slice
from mlxgraph.mlx_facts.dtypes import dtype_named
from mlxgraph.mlx_facts.originals import ARRAY, zeros


class Pick(NamedTuple):
    """An index that chooses queries of what is indexed.

    Attributes:
        choice: a range, or a node or a list of numbers; rest: the index without this choice.
        at: where in `rest` the queries stand, and the keys' numbers that go with theirs right after
            it; beside: those, if so.
    """

    choice: Any
    rest: tuple[Any, ...]
    at: int = 0
    beside: Any = None


def parts_of(index: Any, ndim: int) -> list[Any] | None:
    """An index with one entry an axis, and a None for each new one; None where it is another."""
    parts = list(index) if type(index) is tuple else [index]
    if any(type(p) not in (int, Slice, Node, FrozenList, type(None), type(...)) for p in parts):
        return None
    some = sum(part is not None and part is not ... for part in parts)
    if parts.count(...) > 1 or some > ndim:
        return None
    at = parts.index(...) if ... in parts else len(parts)
    parts[at : at + 1] = [FULL] * (ndim - some)
    return parts


def taken_by(part: Any, count: int) -> range | None:
    """The numbers that a slice takes; None where it is no slice forwards of fixed bounds."""
    if type(part) is not Slice or any(type(b) not in (int, type(None)) for b in part.value):
        return None
    if part.value[2] == 0:
        return None
    taken = range(count)[slice(*part.value)]
    return taken if taken and taken.step > 0 else None


class Shown:
    """Arrays of the shapes and dtypes that nodes have, which nobody computes."""

    def __init__(self, census: Census):
        self._census = census
        self._known: dict[Node, Any] = {}

    def of(self, node: Node) -> Any:
        """An array of the shape of a node's value; None where that is not known, or no array."""
        for below in walk([node]):
            if below not in self._known:
                self._known[below] = self._one(below)
        value = self._known[node]
        return value if isinstance(value, ARRAY) else None

    def is_there_by(self, position: float, node: Node) -> bool:
        """Whether a value can be computed before the forward is at a position, its shape known."""
        for below in walk([node]):
            if below.op in (ops.CALL, ops.APPLY, ops.GRAD) or is_draw(below):
                return False
            if below.op == ops.SITE and self._position(below) >= position:
                return False
        return self.of(node) is not None

    def _position(self, node: Node) -> float:
        return self._census.position(site_of(node))

    def _one(self, node: Node) -> Any:
        if node.op == ops.SITE:
            return map_nested(self._census.values.get(site_of(node)), _empty)
        if node.op == ops.NUMBER:
            return ARRAY(1)
        if node.op in (ops.CONSTANT, ops.PARAM):
            shape, dtype = node.args[1:]
            return zeros(shape or (), mx.float32 if dtype is None else dtype_named(dtype))
        if node.op in (ops.CALL, ops.APPLY, ops.GRAD) or ops.is_random(node.op):
            return None
        if any(self._known[child] is None for child in node.inputs):
            return None
        try:
            return evaluate(node, self._known.__getitem__)
        except Exception:  # then the run says so, on its own values
            return None


def _empty(value: Any) -> Any:
    return zeros(value.shape, value.dtype) if isinstance(value, ARRAY) else value
