"""What a save is called that was given no name: what was saved, as the user wrote it.

    model.output[:, -1].save()              __model_output__[:, -1]
    mx.softmax(h, axis=-1).save()           softmax(model.layers.0.output, axis=-1)
    (h * 2.5 + v).save()                    model.layers.0.output * ... + ...

Values from outside are inputs, and no part of a name: the same block with another number saves
under the same names.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.listing import expression
from mlxgraph.graph.node import Node, site_of
from mlxgraph.graph.site import INPUTS
from mlxgraph.record.handle import site_of_handle

DEPTH = 2  # operations that a name writes out, one inside the other; parts of a value do not count
LONGEST = 80
LEFT_OUT = "..."


def default_name(handle: Any) -> str:
    """The name of a handle that is saved without one."""
    site = site_of_handle(handle)
    if site is not None:
        return str(site.unscoped)
    name = _name(handle._node, DEPTH)
    return name if len(name) <= LONGEST else ops.short(handle._node.op)


def _name(node: Node, depth: int) -> str:
    if node.op == ops.SITE:
        return str(site_of(node).unscoped)
    if node.op in (ops.CONSTANT, ops.NUMBER) or not depth:
        return LEFT_OUT
    if _is_first_argument(node):
        return _name(node.args[0].args[0], depth).removesuffix("s")
    part = node.op in (ops.GETITEM, ops.ITEM)
    below = {child: _name(child, depth if part else depth - 1) for child in node.inputs}
    return expression(node, below)


def _is_first_argument(node: Node) -> bool:
    """`.input` is `.inputs[0][0]`."""
    for _ in range(2):
        if node.op != ops.ITEM or node.args[1] != 0:
            return False
        node = node.args[0]
    return node.op == ops.SITE and site_of(node).port == INPUTS
