"""Gradients at sites: one backward pass through the forward that is being run.

The gradient of a loss at a node is its gradient with respect to a zero that is added there.  So
the forward becomes a function of one zero per node, and `mx.value_and_grad` does the rest,
compiled or not.

In: a plan whose saves need gradients, and a way to run its forward.  Out: the saves' values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from mlxgraph.errors import GradientError
from mlxgraph.evaluate.values import Values
from mlxgraph.graph import ops
from mlxgraph.graph.nested import leaves, map_nested, unflatten
from mlxgraph.graph.node import Node, walk
from mlxgraph.mlx_facts import originals
from mlxgraph.mlx_facts.placeholders import placeholder
from mlxgraph.mlx_facts.probes import holds_nothing, is_followed
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
    losses = _losses(plan)
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


Forward = Callable[[Deltas], Values]


def unreached(plan: Plan, run: Forward, unedited: Forward) -> Node | None:
    """A gradient node whose loss does not depend on the value it is taken at, if there is one.

    A mark at each value is told when the backward pass comes through it.  Where it does not, a
    way may still be there and be blocked, by `mx.stop_gradient` or by an edit: then a zero that
    cannot be evaluated, added to the value, shows in the loss, of the unedited forward at last.
    """
    for loss, nodes in _losses(plan).items():
        nodes = list(dict.fromkeys(nodes))
        wanted = _zeros_at(nodes, run({}))
        reached = _reached(loss, nodes, wanted, run)
        for node, zero in zip(nodes, wanted, strict=True):
            if node not in reached and not any(
                _shows(zero, node, loss, forward) for forward in (run, unedited)
            ):
                return Node(ops.GRAD, (loss, node))
    return None


def _reached(loss: Node, nodes: list[Node], wanted: list[Any], run: Forward) -> set[Node]:
    """The nodes that a backward pass from a loss comes to."""
    reached: set[Node] = set()

    def forward(zeros: list[Any]) -> mx.array:
        spread = zip(nodes, _spread(zeros, wanted), strict=True)
        return run({n: _marked(zero, partial(reached.add, n)) for n, zero in spread})[loss]

    originals.grad(forward)([v for v in leaves(wanted) if v is not None])
    return reached


def _shows(zero: Any, node: Node, loss: Node, run: Forward) -> bool:
    """Whether a loss depends on a value, as far as that can be told here."""
    abstract = map_nested(zero, lambda z: z if z is None else placeholder(z.shape, z.dtype))
    value = run({node: abstract})[loss]
    return is_followed(value) or holds_nothing(value)


def _marked(delta: Any, tell: Callable[[], None]) -> Any:
    """Zeros that tell when a backward pass comes to them."""
    same = originals.custom_function(lambda x: x)

    def vjp(primal: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        tell()
        return cotangent

    same.vjp(vjp)
    return map_nested(delta, lambda d: None if d is None else same(d))


def _losses(plan: Plan) -> dict[Node, list[Node]]:
    """The losses that gradients are taken of, and where."""
    losses: dict[Node, list[Node]] = {}
    for node in walk(plan.saves):
        if node.op == ops.GRAD:
            losses.setdefault(node.args[0], []).append(node.args[1])
    return losses


def _zeros_at(nodes: list[Node], shapes: Values) -> list[Any]:
    return [map_nested(shapes[node], _zero) for node in nodes]


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

    wanted = _zeros_at(nodes, shapes)
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
