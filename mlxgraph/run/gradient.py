"""Gradients at sites: one backward pass through the forward that is being run.

The gradient of a loss at a node is its gradient with respect to a zero that is added there.  So
the forward becomes a function of one zero per node, and `mx.value_and_grad` does the rest,
compiled or not.

In: a plan whose saves need gradients, and a way to run its forward.  Out: the saves' values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxgraph.errors import GradientError
from mlxgraph.evaluate.values import Values
from mlxgraph.graph import ops
from mlxgraph.graph.nested import leaves, map_nested, unflatten
from mlxgraph.graph.node import Node, walk
from mlxgraph.mlx_facts import originals
from mlxgraph.run.plan import Plan

Deltas = dict[Node, Any]


def add_delta(value: Any, delta: Any) -> Any:
    """A value with its zeros added, array by array."""
    parts = iter(leaves(delta))
    return map_nested(value, lambda v: v if (d := next(parts)) is None else v + d)


def with_gradients(plan: Plan, run: Callable[[Deltas], Values]) -> Values:
    """The node values of a forward, those of its gradient nodes included.

    Args: run: runs the forward with zeros added at some nodes, and gives the node values.
    """
    losses: dict[Node, list[Node]] = {}
    for node in walk(plan.saves):
        if node.op == ops.GRAD:
            losses.setdefault(node.args[0], []).append(node.args[1])
    if len(losses) > 1 and plan.draws:
        raise GradientError(
            "gradients of several losses under random draws would each see other draws.\n"
            "  Take them of one loss, or in traces of their own."
        )
    shapes = run({})
    known: dict[Node, Any] = {}
    for loss, nodes in losses.items():
        known.update(_backward(loss, list(dict.fromkeys(nodes)), shapes, plan, run))
    for node in plan.sources:
        known.setdefault(node, shapes[node])
    return Values(known, shapes.call, draw=shapes.draw)


def _backward(
    loss: Node, nodes: list[Node], shapes: Values, plan: Plan, run: Callable[[Deltas], Values]
) -> dict[Node, Any]:
    carried = _frontier(plan)
    templates: list[Any] = []

    def forward(zeros: list[Any]) -> tuple[mx.array, list[mx.array]]:
        deltas = dict(zip(nodes, _spread(zeros, wanted), strict=True))
        values = run(deltas)
        templates.clear()
        templates.extend(values[node] for node in carried)
        return values[loss], [v for v in leaves(templates) if isinstance(v, mx.array)]

    wanted = [map_nested(shapes[node], _zero) for node in nodes]
    zeros = [v for v in leaves(wanted) if v is not None]
    (_, arrays), gradients = originals.value_and_grad(forward)(zeros)
    rest = iter(arrays)
    filled = [next(rest) if isinstance(v, mx.array) else v for v in leaves(templates)]
    known = dict(zip(carried, unflatten(templates, filled), strict=True))
    for node, gradient in zip(nodes, _spread(gradients, wanted), strict=True):
        known[Node(ops.GRAD, (loss, node))] = _with_zeros(gradient, shapes[node])
    return known


def _zero(value: Any) -> mx.array | None:
    if isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating):
        return originals.zeros(value.shape, value.dtype)
    return None


def _with_zeros(gradient: Any, value: Any) -> Any:
    """A gradient with zeros where the value holds whole numbers."""
    parts = iter(leaves(gradient))
    return map_nested(
        value,
        lambda v: (
            originals.zeros_like(v) if (g := next(parts)) is None and isinstance(v, mx.array) else g
        ),
    )


def _spread(arrays: list[mx.array], wanted: list[Any]) -> list[Any]:
    """A flat list of arrays in the nested places of `wanted`."""
    rest = iter(arrays)
    return map_nested(wanted, lambda v: None if v is None else next(rest))


def _frontier(plan: Plan) -> list[Node]:
    """What the saves need that does not itself need a gradient."""
    late: set[Node] = set()
    found: dict[Node, None] = {}
    for node in walk(plan.saves):
        if node.op == ops.GRAD or any(child in late for child in node.inputs):
            late.add(node)
            if node.op != ops.GRAD:
                found.update(dict.fromkeys(child for child in node.inputs if child not in late))
    found.update(dict.fromkeys(node for node in plan.saves if node not in late))
    return [node for node in found if node.op not in ops.SOURCES or node.op == ops.SITE]
