"""The library's own rules: what may stand in a node's place without changing what is computed.

Each is a function of one node whose docstring is its law, and looks at nothing but structure: it
holds on every model, for every input, with every value of the graph's constants.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import DType
from mlxgraph.rewrite.known_shapes import (
    DEPTH,
    are_apart,
    is_node,
    is_static,
    is_whole,
    same_dtype,
    same_shape,
)

# -- writes after writes --------------------------------------------------------------------------


def later_update_wins(node: Node) -> Node | None:
    """update(update(x, i, a), i, b)  ->  update(x, i, b)"""
    match node:
        case Node(ops.UPDATE, (Node(ops.UPDATE, (x, here, _)), there, b)) if here == there:
            return Node(ops.UPDATE, (x, there, b))
    return None


def later_put_wins(node: Node) -> Node | None:
    """put(put(x, k, a), k, b)  ->  put(x, k, b)"""
    match node:
        case Node(ops.PUT, (Node(ops.PUT, (x, here, _)), there, b)) if here == there:
            return Node(ops.PUT, (x, there, b))
    return None


def whole_update(node: Node) -> Node | None:
    """update(x, :, v)  ->  v, if v is shaped and typed as x"""
    match node:
        case Node(ops.UPDATE, (x, index, v)) if (
            is_whole(index) and is_node(v) and same_shape(v, x) and same_dtype(v, x)
        ):
            return v
    return None


# -- writes that change nothing -------------------------------------------------------------------


def own_value(node: Node) -> Node | None:
    """update(x, i, x[i])  ->  x"""
    match node:
        case Node(ops.UPDATE, (x, here, Node(ops.GETITEM, (y, there)))) if x is y and here == there:
            return x
    return None


def own_item(node: Node) -> Node | None:
    """put(x, k, item(x, k))  ->  x"""
    match node:
        case Node(ops.PUT, (x, here, Node(ops.ITEM, (y, there)))) if x is y and here == there:
            return x
    return None


def own_leaves(node: Node) -> Node | None:
    """unflatten_like(x, leaf(x, 0), leaf(x, 1), ...)  ->  x"""
    match node:
        case Node(ops.UNFLATTEN_LIKE, (x, *given)) if given and all(
            is_node(part) and part.op == ops.LEAF and part.args == (x, k)
            for k, part in enumerate(given)
        ):
            return x
    return None


# -- reading what was written ---------------------------------------------------------------------


def read_back(node: Node) -> Node | None:
    """update(x, i, v)[i]  ->  v as x[i] is: broadcast to its shape, in its dtype"""
    match node:
        case Node(ops.GETITEM, (Node(ops.UPDATE, (x, here, v)), there)) if (
            here == there and is_static(here) and is_node(v)
        ):
            part = Node(ops.GETITEM, (x, here))
            return Node(ops.ASTYPE_LIKE, (Node(ops.BROADCAST_LIKE, (v, part)), part))
    return None


def read_beside(node: Node) -> Node | None:
    """update(x, i, v)[j]  ->  x[j], if i and j have nothing in common"""
    match node:
        case Node(ops.GETITEM, (Node(ops.UPDATE) as written, there)) if is_static(there):
            x = _below_writes_apart(written, there)
            return Node(ops.GETITEM, (x, there)) if x is not None and x is not written else None
    return None


def _below_writes_apart(node: Node, index: Any) -> Node | None:
    """The value below the writes that do not concern an index; None if there are too many.

    One use of the rule passes all of them, and gives up early, or a read behind each of many
    writes would make the cost grow with their square.
    """
    for _ in range(DEPTH):
        match node:
            case Node(ops.UPDATE, (x, here, _)) if is_static(here) and are_apart(here, index):
                node = x
            case _:
                return node
    return None


def read_all(node: Node) -> Node | None:
    """x[:]  ->  x"""
    match node:
        case Node(ops.GETITEM, (x, index)) if is_whole(index):
            return x
    return None


def read_item_back(node: Node) -> Node | None:
    """item(put(x, k, v), k)  ->  v, and another item is x's own"""
    match node:
        case Node(ops.ITEM, (Node(ops.PUT, (_, here, v)), there)) if here == there and is_node(v):
            return v
        case Node(ops.ITEM, (Node(ops.PUT) as written, there)):
            x = _below_other_items(written, there)
            return Node(ops.ITEM, (x, there)) if x is not None and x is not written else None
    return None


def _below_other_items(node: Node, key: Any) -> Node | None:
    """The nest below the writes of other items; None if there are too many (as above)."""
    for _ in range(DEPTH):
        match node:
            case Node(ops.PUT, (x, here, _)) if _other_item(here, key):
                node = x
            case _:
                return node
    return None


def _other_item(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or one == other:
        return False
    return type(one) is str or (type(one) is int and min(one, other) >= 0)


def read_leaf_back(node: Node) -> Node | None:
    """leaf(unflatten_like(x, v0, v1, ...), k)  ->  vk"""
    match node:
        case Node(ops.LEAF, (Node(ops.UNFLATTEN_LIKE, (_, *given)), k)) if is_node(given[k]):
            return given[k]
    return None


# -- views and their way back ---------------------------------------------------------------------


def reshaped_twice(node: Node) -> Node | None:
    """reshape(reshape(x, s), t)  ->  reshape(x, t), for every operation that reshapes"""
    match node:
        case Node(ops.MX_RESHAPE | ops.RESHAPE_LIKE as op, (Node(inner, (x, *_), ()), to), ()) if (
            inner in ops.RESHAPES
        ):
            return Node(op, (x, to))
    return None


def reshaped_to_itself(node: Node) -> Node | None:
    """reshape(x, t)  ->  x, if x is shaped so"""
    match node:
        case Node(ops.RESHAPE_LIKE, (x, like)) if same_shape(x, like):
            return x
        case Node(ops.MX_RESHAPE, (x, _), ()) if is_node(x) and same_shape(node, x):
            return x
    return None


def transposed_twice(node: Node) -> Node | None:
    """transpose(transpose(x, p), q)  ->  transpose(x, p[q]), or x if that is no change"""
    match node:
        case Node(ops.MX_TRANSPOSE, (Node(ops.MX_TRANSPOSE, (x, p), ()), q), ()) if (
            type(p) is tuple and type(q) is tuple and len(p) == len(q)
        ):
            axes = tuple([p[axis] for axis in q])
            return x if axes == tuple(range(len(axes))) else Node(ops.MX_TRANSPOSE, (x, axes))
    return None


def swapped_twice(node: Node) -> Node | None:
    """swapaxes(swapaxes(x, a, b), a, b)  ->  x"""
    match node:
        case Node(ops.MX_SWAPAXES, (Node(ops.MX_SWAPAXES, (x, a, b), ()), c, d), ()) if {a, b} == {
            c,
            d,
        }:
            return x
    return None


def moved_back(node: Node) -> Node | None:
    """moveaxis(moveaxis(x, a, b), b, a)  ->  x"""
    match node:
        case Node(ops.MX_MOVEAXIS, (Node(ops.MX_MOVEAXIS, (x, a, b), ()), c, d), ()) if (a, b) == (
            d,
            c,
        ):
            return x
    return None


def negated_twice(node: Node) -> Node | None:
    """-(-x)  ->  x"""
    match node:
        case Node(ops.MX_NEGATIVE, (Node(ops.MX_NEGATIVE, (x,), ()),), ()):
            return x
    return None


# -- shapes and dtypes that are there already -----------------------------------------------------


def broadcast_already(node: Node) -> Node | None:
    """broadcast_like(x, y)  ->  x, if x is shaped as y"""
    match node:
        case Node(ops.BROADCAST_LIKE, (x, like)) if is_node(x) and same_shape(x, like):
            return x
    return None


def broadcast_twice(node: Node) -> Node | None:
    """broadcast_like(broadcast_like(x, y), z)  ->  broadcast_like(x, z)"""
    match node:
        case Node(ops.BROADCAST_LIKE, (Node(ops.BROADCAST_LIKE, (x, _)), like)):
            return Node(ops.BROADCAST_LIKE, (x, like))
    return None


def cast_already(node: Node) -> Node | None:
    """astype_like(x, y)  ->  x, if x has y's dtype; and so for mx.astype"""
    match node:
        case Node(ops.ASTYPE_LIKE, (x, like)) if is_node(x) and same_dtype(x, like):
            return x
        case Node(ops.MX_ASTYPE, (x, DType()), ()) if is_node(x) and same_dtype(x, node):
            return x
    return None


def shape_from_the_source(node: Node) -> Node | None:
    """op_like(v, reshape_like(x, y))  ->  op_like(v, y), for whatever only takes y's shape"""
    match node:
        case Node(
            ops.BROADCAST_LIKE | ops.RESHAPE_LIKE as op,
            (v, Node(ops.BROADCAST_LIKE | ops.RESHAPE_LIKE, (_, source))),
        ):
            return Node(op, (v, source))
    return None


def dtype_from_the_source(node: Node) -> Node | None:
    """astype_like(v, astype_like(x, y))  ->  astype_like(v, y)"""
    match node:
        case Node(ops.ASTYPE_LIKE, (v, Node(ops.ASTYPE_LIKE, (_, source)))):
            return Node(ops.ASTYPE_LIKE, (v, source))
    return None


UPDATES = (later_update_wins, later_put_wins, whole_update)
NOOPS = (own_value, own_item, own_leaves)
READS = (read_back, read_beside, read_all, read_item_back, read_leaf_back)
VIEWS = (
    reshaped_twice,
    reshaped_to_itself,
    transposed_twice,
    swapped_twice,
    moved_back,
    negated_twice,
)
CASTS = (
    broadcast_already,
    broadcast_twice,
    cast_already,
    shape_from_the_source,
    dtype_from_the_source,
)
RULES = (*UPDATES, *NOOPS, *READS, *VIEWS, *CASTS)
