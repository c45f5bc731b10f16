"""Rewrites that need to see a whole graph: dead code, common subexpressions, constants.

Interning does most of the work already: two equal expressions are one node.  What is left are
expressions that are equal without looking so, and values that the graph alone can know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxgraph.errors import MLXGraphError
from mlxgraph.graph import ops
from mlxgraph.graph.base import canonical, rebuilt
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, is_number, site_node
from mlxgraph.graph.values import dtype_name

Evaluate = Callable[[Node, Callable[[Node], Any]], Any]


def drop_dead(graph: Graph) -> Graph:
    """Writes of a site's own value go, and so do constants that no node uses any more."""
    return canonical(drop_idle_writes(graph))


def drop_idle_writes(graph: Graph) -> Graph:
    """Writes of a site's own value go; constants keep their numbers."""
    writes = [(site, node) for site, node in graph.writes if node is not site_node(*site)]
    return graph if len(writes) == len(graph.writes) else graph.replace(writes=writes)


def merge_twins(graph: Graph) -> Graph:
    """a + b and b + a become one node, whichever came first."""
    seen: set[Node] = set()

    def twin(node: Node) -> Node | None:
        if node.op in ops.COMMUTES and len(node.args) == 2 and not node.kwargs:
            other = Node(node.op, (node.args[1], node.args[0]))
            if other in seen:
                return other
        seen.add(node)
        return None

    return _if_changed(graph, rebuilt(graph, twin))


def merge_constants(graph: Graph) -> Graph:
    """One array, or one number, that came in under two indices becomes one input.

    Looks at the values, so the result holds for these values alone: it is no longer the graph
    that takes any others.
    """
    first: dict[Any, int] = {}

    def same(node: Node) -> Node | None:
        if node.op not in (ops.CONSTANT, ops.NUMBER):
            return None
        value = graph.constants[node.args[0]]
        key = (type(value), repr(value)) if node.op == ops.NUMBER else id(value)
        index = first.setdefault(key, node.args[0])
        return None if index == node.args[0] else Node(node.op, (index, *node.args[1:]))

    return _if_changed(graph, rebuilt(graph, same))


def fold_constants(graph: Graph, evaluate: Evaluate) -> Graph:
    """What rests on constants alone is computed now, and becomes a constant itself.

    Args: evaluate: gives the value of one node from its inputs' values.  It has to be MLX's own
        arithmetic: the sum of two numbers is a float32 array there, not a Python float.

    Random draws, modules, gradients and opaque functions are left for the run, and so is what
    cannot be computed at all: its error belongs to whoever runs the graph.  What Python's operators
    make of numbers stays too: it takes the dtype of what it meets.
    """
    values: dict[Node, Any] = {}
    constants = list(graph.constants)

    def fold(node: Node) -> Node | None:
        if node.op in (ops.CONSTANT, ops.NUMBER):
            values[node] = constants[node.args[0]]
            return None
        if not node.inputs or not _is_pure(node) or any(n not in values for n in node.inputs):
            return None
        try:
            value = evaluate(node, values.__getitem__)
        except (MLXGraphError, ValueError, TypeError, IndexError, RuntimeError):
            return None
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            return None
        if is_number(node):  # it stays one: it takes the dtype of what it meets
            plain = value.item()
            folded = Node(ops.NUMBER, (len(constants), type(plain).__name__))
            constants.append(plain)
        else:
            folded = Node(ops.CONSTANT, (len(constants), *_kind(value)))
            constants.append(value)
        values[folded] = value
        return folded

    new = rebuilt(graph, fold)
    saves = list(new.saves)
    for k, ((name, now), (_, before)) in enumerate(zip(new.saves, graph.saves, strict=True)):
        if now.op == ops.NUMBER and before.op != ops.NUMBER:  # on its own it is an array
            saves[k] = (name, Node(ops.CONSTANT, (len(constants), *_kind(values[now]))))
            constants.append(values[now])
    if len(constants) == len(graph.constants):
        return graph
    return new.replace(constants=constants, saves=saves)


def _kind(array: Any) -> tuple[tuple[int, ...], str]:
    return tuple(array.shape), dtype_name(array.dtype)


def _is_pure(node: Node) -> bool:
    return node.op not in (ops.APPLY, ops.CALL, ops.GRAD) and not ops.is_random(node.op)


def _if_changed(before: Graph, after: Graph) -> Graph:
    """The graph itself where nothing changed, so that its notes are not wrapped once more."""
    return before if before.roots == after.roots else after
