"""The library's own rules: what may stand in a node's place without changing what is computed.

Each is a function of one node whose docstring is its law, and looks at nothing but structure: it
holds on every model, for every input, with every value of the graph's constants.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.graph.node import Node
from mlxgraph.graph.values import DType
from mlxgraph.rewrite.known_shapes import (
    DEPTH,
    RESHAPES,
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
        case Node("update", (Node("update", (x, here, _)), there, b)) if here == there:
            return Node("update", (x, there, b))
    return None


def later_put_wins(node: Node) -> Node | None:
    """put(put(x, k, a), k, b)  ->  put(x, k, b)"""
    match node:
        case Node("put", (Node("put", (x, here, _)), there, b)) if here == there:
            return Node("put", (x, there, b))
    return None


def whole_update(node: Node) -> Node | None:
    """update(x, :, v)  ->  v, if v is shaped and typed as x"""
    match node:
        case Node("update", (x, index, v)) if (
            is_whole(index) and is_node(v) and same_shape(v, x) and same_dtype(v, x)
        ):
            return v
    return None


# -- writes that change nothing -------------------------------------------------------------------


def own_value(node: Node) -> Node | None:
    """update(x, i, x[i])  ->  x"""
    match node:
        case Node("update", (x, here, Node("getitem", (y, there)))) if x is y and here == there:
            return x
    return None


def own_item(node: Node) -> Node | None:
    """put(x, k, item(x, k))  ->  x"""
    match node:
        case Node("put", (x, here, Node("item", (y, there)))) if x is y and here == there:
            return x
    return None


def own_leaves(node: Node) -> Node | None:
    """unflatten_like(x, leaf(x, 0), leaf(x, 1), ...)  ->  x"""
    match node:
        case Node("unflatten_like", (x, *given)) if given and all(
            is_node(part) and part.op == "leaf" and part.args == (x, k)
            for k, part in enumerate(given)
        ):
            return x
    return None


# -- reading what was written ---------------------------------------------------------------------


def read_back(node: Node) -> Node | None:
    """update(x, i, v)[i]  ->  v as x[i] is: broadcast to its shape, in its dtype"""
    match node:
        case Node("getitem", (Node("update", (x, here, v)), there)) if (
            here == there and is_static(here) and is_node(v)
        ):
            place = Node("getitem", (x, here))
            return Node("astype_like", (Node("broadcast_like", (v, place)), place))
    return None


def read_beside(node: Node) -> Node | None:
    """update(x, i, v)[j]  ->  x[j], if i and j have nothing in common"""
    match node:
        case Node("getitem", (Node("update") as written, there)) if is_static(there):
            x = _below_writes_apart(written, there)
            return Node("getitem", (x, there)) if x is not None and x is not written else None
    return None


def _below_writes_apart(node: Node, index: Any) -> Node | None:
    """The value below the writes that do not concern an index; None if there are too many.

    One step of the rule passes all of them, and gives up early, or a read behind each of many
    writes would make the cost grow with their square.
    """
    for _ in range(DEPTH):
        match node:
            case Node("update", (x, here, _)) if is_static(here) and are_apart(here, index):
                node = x
            case _:
                return node
    return None


def read_all(node: Node) -> Node | None:
    """x[:]  ->  x"""
    match node:
        case Node("getitem", (x, index)) if is_whole(index):
            return x
    return None


def read_item_back(node: Node) -> Node | None:
    """item(put(x, k, v), k)  ->  v, and another item is x's own"""
    match node:
        case Node("item", (Node("put", (_, here, v)), there)) if here == there and is_node(v):
            return v
        case Node("item", (Node("put") as written, there)):
            x = _below_other_items(written, there)
            return Node("item", (x, there)) if x is not None and x is not written else None
    return None


def _below_other_items(node: Node, key: Any) -> Node | None:
    """The nest below the writes of other items; None if there are too many (as above)."""
    for _ in range(DEPTH):
        match node:
            case Node("put", (x, here, _)) if _other_item(here, key):
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
        case Node("leaf", (Node("unflatten_like", (_, *given)), k)) if is_node(given[k]):
            return given[k]
    return None


# -- views and their way back ---------------------------------------------------------------------


def reshaped_twice(node: Node) -> Node | None:
    """reshape(reshape(x, s), t)  ->  reshape(x, t), for every operation that reshapes"""
    match node:
        case Node("mx.reshape" | "reshape_like" as op, (Node(inner, (x, *_), ()), to), ()) if (
            inner in RESHAPES or inner == "reshape_like"
        ):
            return Node(op, (x, to))
    return None


def reshaped_to_itself(node: Node) -> Node | None:
    """reshape(x, t)  ->  x, if x is shaped so"""
    match node:
        case Node("reshape_like", (x, like)) if same_shape(x, like):
            return x
        case Node("mx.reshape", (x, _), ()) if is_node(x) and same_shape(node, x):
            return x
    return None


def transposed_twice(node: Node) -> Node | None:
    """transpose(transpose(x, p), q)  ->  transpose(x, p[q]), or x if that is no change"""
    match node:
        case Node("mx.transpose", (Node("mx.transpose", (x, p), ()), q), ()) if (
            type(p) is tuple and type(q) is tuple and len(p) == len(q)
        ):
            axes = tuple([p[axis] for axis in q])
            return x if axes == tuple(range(len(axes))) else Node("mx.transpose", (x, axes))
    return None


def swapped_twice(node: Node) -> Node | None:
    """swapaxes(swapaxes(x, a, b), a, b)  ->  x"""
    match node:
        case Node("mx.swapaxes", (Node("mx.swapaxes", (x, a, b), ()), c, d), ()) if {a, b} == {
            c,
            d,
        }:
            return x
    return None


def moved_back(node: Node) -> Node | None:
    """moveaxis(moveaxis(x, a, b), b, a)  ->  x"""
    match node:
        case Node("mx.moveaxis", (Node("mx.moveaxis", (x, a, b), ()), c, d), ()) if (a, b) == (
            d,
            c,
        ):
            return x
    return None


def negated_twice(node: Node) -> Node | None:
    """-(-x)  ->  x"""
    match node:
        case Node("mx.negative", (Node("mx.negative", (x,), ()),), ()):
            return x
    return None


# -- shapes and dtypes that are there already -----------------------------------------------------


def broadcast_already(node: Node) -> Node | None:
    """broadcast_like(x, y)  ->  x, if x is shaped as y"""
    match node:
        case Node("broadcast_like", (x, like)) if is_node(x) and same_shape(x, like):
            return x
    return None


def broadcast_twice(node: Node) -> Node | None:
    """broadcast_like(broadcast_like(x, y), z)  ->  broadcast_like(x, z)"""
    match node:
        case Node("broadcast_like", (Node("broadcast_like", (x, _)), like)):
            return Node("broadcast_like", (x, like))
    return None


def cast_already(node: Node) -> Node | None:
    """astype_like(x, y)  ->  x, if x has y's dtype; and so for mx.astype"""
    match node:
        case Node("astype_like", (x, like)) if is_node(x) and same_dtype(x, like):
            return x
        case Node("mx.astype", (x, DType()), ()) if is_node(x) and same_dtype(x, node):
            return x
    return None


def shape_from_the_source(node: Node) -> Node | None:
    """op_like(v, reshape_like(x, y))  ->  op_like(v, y), for whatever only takes y's shape"""
    match node:
        case Node(
            "broadcast_like" | "reshape_like" as op,
            (v, Node("broadcast_like" | "reshape_like", (_, source))),
        ):
            return Node(op, (v, source))
    return None


def dtype_from_the_source(node: Node) -> Node | None:
    """astype_like(v, astype_like(x, y))  ->  astype_like(v, y)"""
    match node:
        case Node("astype_like", (v, Node("astype_like", (_, source)))):
            return Node("astype_like", (v, source))
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
