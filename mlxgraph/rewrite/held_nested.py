"""Nested values in one forward: their arrays each have an axis of positions of their own, or none.

In: an operation on one, what its inputs are.  Out: what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.held import Absent, Along, Both, Held, Nest, Refused, State
from mlxgraph.graph.nested import entry, leaves, replace_item, unflatten
from mlxgraph.graph.node import Node
from mlxgraph.rewrite.fitting import SAME, Fitting

_APART = "Edit a value that is one array, `attn.pattern`."


def nested(
    node: Node, inputs: Mapping[Node, State], states: Mapping[Node, State], fit: Fitting
) -> State:
    """What an operation on a nested value is.  Args: inputs: the states of its inputs."""
    nest = inputs.get(node.args[0]) if type(node.args[0]) is Node else None
    if isinstance(nest, Nest):
        if node.op == ops.ITEM:
            made = Node(node.op, (nest.node, *node.args[1:]))
            return fit.of_axes(made, node, entry(nest.axes, node.args[1]))
        if node.op == ops.LEAF:
            made = Node(node.op, (nest.node, *node.args[1:]))
            return fit.of_axes(made, node, leaves(nest.axes)[node.args[1]])
        if node.op == ops.PUT:
            return _put(node, nest, states, fit)
        if node.op == ops.UNFLATTEN_LIKE:
            return _unflattened(node, nest, states, fit)
    return Refused(
        node,
        f"{ops.short(node.op)} of a nested value",
        "Take an array out of it first, as by `[0]`.",
    )


def _entry(node: Node, value: Any, axes: Any, states: Mapping[Node, State], fit: Fitting) -> Any:
    """A part that is put into a nested value: its node and its axes."""
    if type(value) is not Node:
        return value, axes
    state = states[value]
    if isinstance(state, Nest):
        return state.node, state.axes
    if type(axes) is int or isinstance(axes, Along):
        whole: Any = fit.of_axes(node, node, axes)
        if isinstance(whole, Both):
            return Refused(node, "an edit of rows and keys in a nested value", _APART), axes
        return fit.fitted(node, state, whole, value), axes
    if isinstance(state, (Held, Both)):
        return Refused(node, "a value with positions in place of one without", SAME), axes
    return (state if isinstance(state, (Refused, Absent)) else state.node), axes


def _put(node: Node, nest: Nest, states: Mapping[Node, State], fit: Fitting) -> State:
    _, key, value = node.args
    given, axes = _entry(node, value, entry(nest.axes, key), states, fit)
    if isinstance(given, (Refused, Absent)):
        return given
    return Nest(Node(node.op, (nest.node, key, given)), replace_item(nest.axes, key, axes))


def _unflattened(node: Node, nest: Nest, states: Mapping[Node, State], fit: Fitting) -> State:
    parts, axes = [], []
    for value, axis in zip(node.args[1:], leaves(nest.axes), strict=True):
        given, own = _entry(node, value, axis, states, fit)
        if isinstance(given, (Refused, Absent)):
            return given
        parts.append(given)
        axes.append(own)
    return Nest(Node(node.op, (nest.node, *parts)), unflatten(nest.axes, axes))
