"""The node values of one run: each computed when it is asked for, and once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlxgraph.errors import MLXGraphError
from mlxgraph.evaluate.evaluate import Lookup, evaluate
from mlxgraph.graph import ops
from mlxgraph.graph.listing import brief
from mlxgraph.graph.node import Node, is_draw

Draw = Callable[[Node, Callable[[], Any]], Any]

OF_MLX = (ValueError, TypeError, IndexError)  # what an operation raises on other shapes


class NodeFailure(Exception):  # noqa: N818 - whoever has the graph says it in full
    """A node that MLX cannot compute from these values."""

    def __init__(self, node: Node, error: Exception):
        super().__init__(node, error)
        self.node = node
        self.error = error


class Values:
    """Node values, computed on demand.

    Args:
        known: values to start from, those of the graph's sources among them; it fills up.
        call: gives the value of a node that calls a module.
        draw: makes a numbered draw, given its node and how; left out, from the state as it is.
        after: changes a value before it is kept (a zero is added where a gradient is taken).
    """

    __slots__ = ("known", "call", "_after", "draw")

    def __init__(
        self,
        known: dict[Node, Any],
        call: Callable[[Node, Lookup], Any] = evaluate,
        after: Callable[[Node, Any], Any] | None = None,
        draw: Draw | None = None,
    ):
        self.known = known
        self.call = call
        self._after = after
        self.draw = draw

    def __getitem__(self, node: Node) -> Any:
        if node not in self.known:
            self._compute(node)
        return self.known[node]

    def _compute(self, root: Node) -> None:
        stack = [root]
        known = self.known
        while stack:
            node = stack[-1]
            if node in known:
                stack.pop()
                continue
            waiting = [child for child in node.inputs if child not in known]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            stack.pop()
            if node.op in ops.SOURCES:
                raise KeyError(f"the run has no value for {node.op} {node.args}")
            value = self._one(node)
            known[node] = value if self._after is None else self._after(node, value)

    def _one(self, node: Node) -> Any:
        if self.draw is not None and is_draw(node):
            return self.draw(node, lambda: self._made(node))
        return self._made(node)

    def _made(self, node: Node) -> Any:
        lookup = self.known.__getitem__
        if node.op == ops.CALL:
            return self.call(node, lookup)
        try:
            return evaluate(node, lookup)
        except Exception as error:
            if node.op == ops.APPLY:  # the user's own function: what it raises is the user's
                error.add_note(f"raised by {brief(node)}, in the run of a graph")
                raise
            if isinstance(error, MLXGraphError) or not isinstance(error, OF_MLX):
                raise
            raise NodeFailure(node, error) from error


def source_values(
    nodes: Iterable[Node], constants: Sequence[Any], params: Mapping[str, Any]
) -> dict[Node, Any]:
    """The values of the constants, numbers and params among `nodes`."""
    known: dict[Node, Any] = {}
    for node in nodes:
        if node.op in (ops.CONSTANT, ops.NUMBER):
            known[node] = constants[node.args[0]]
        elif node.op == ops.PARAM:
            known[node] = params[node.args[0]]
    return known
