"""Nodes to rewrite by hand: `x` is (2, 4, 6), `y` (6, 4), `w` of another dtype; and numbers."""

from __future__ import annotations

from typing import Any

from mlxgraph.graph.check import check
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.values import DType, FrozenList, Literal, Slice
from mlxgraph.rewrite.pipeline import Simplified

X, Y, W = site_node("x"), site_node("y"), site_node("w")
V = site_node("v")  # shape (2, 6), as x[:, -1]
N = Node("number", (0, "float"))
C = Node("constant", (1, (6,), "float32"))
ROW = Node("constant", (2, (1, 6), "float32"))
ALL = Slice(None, None, None)
LAST = (ALL, -1)
FIRST = (ALL, 0)
SHAPE = (2, 4, 6)


def getitem(x: Node, index: Any) -> Node:
    return Node("getitem", (x, index))


def update(x: Node, index: Any, value: Any) -> Node:
    return Node("update", (x, index, value))


def put(x: Node, key: Any, value: Any) -> Node:
    return Node("put", (x, key, value))


def item(x: Node, key: Any) -> Node:
    return Node("item", (x, key))


def mx_(name: str, *args: Any) -> Node:
    return Node(f"mx.{name}", args)


def like(kind: str, *args: Any) -> Node:
    return Node(f"{kind}_like", args)


def checked(done: Simplified) -> Simplified:
    """What the pipeline made of a graph, every rewrite's result found well-formed."""
    for change in done.history:
        check(change.before)
        check(change.after)
    return done


PART = getitem(X, LAST)
HALF = mx_("multiply", PART, N)
NEST = site_node("nest")  # ((x, y), {"gain": v})
SPLIT = mx_("reshape", X, (2, 4, 3, 2))
HEADS = mx_("transpose", SPLIT, (0, 2, 1, 3))
BACK = mx_("transpose", update(HEADS, FIRST, N), (0, 2, 1, 3))

# rule -> (node, what it becomes)
FITS: dict[str, list[tuple[Node, Node]]] = {
    "later_update_wins": [
        (update(update(X, LAST, V), LAST, HALF), update(X, LAST, HALF)),
        (
            update(update(X, FrozenList((0, 0)), N), FrozenList((0, 0)), X),
            update(X, FrozenList((0, 0)), X),
        ),
    ],
    "later_put_wins": [(put(put(NEST, 0, Y), 0, X), put(NEST, 0, X))],
    "whole_update": [
        (update(X, ALL, like("full", X, N)), like("full", X, N)),
        (update(X, (ALL, ALL), mx_("negative", X)), mx_("negative", X)),
    ],
    "own_value": [
        (update(X, LAST, PART), X),
        (update(X, FrozenList((1, 0)), getitem(X, FrozenList((1, 0)))), X),
    ],
    "own_item": [(put(NEST, 0, item(NEST, 0)), NEST)],
    "own_leaves": [
        (
            like("unflatten", NEST, *[Node("leaf", (NEST, k)) for k in range(3)]),
            NEST,
        )
    ],
    "read_back": [
        (
            getitem(update(X, LAST, HALF), LAST),
            like("astype", like("broadcast", HALF, PART), PART),
        ),
        (
            getitem(update(X, LAST, W), LAST),
            like("astype", like("broadcast", W, PART), PART),
        ),
    ],
    "read_beside": [
        (getitem(update(X, FIRST, V), (ALL, 1)), getitem(X, (ALL, 1))),
        (getitem(update(X, (ALL, -2), V), LAST), getitem(X, LAST)),
    ],
    "read_all": [(getitem(X, ALL), X), (getitem(X, (ALL, Ellipsis)), X)],
    "read_item_back": [
        (item(put(NEST, 0, X), 0), X),
        (item(put(NEST, 0, X), 1), item(NEST, 1)),
    ],
    "read_leaf_back": [(Node("leaf", (like("unflatten", NEST, V, Y, X), 1)), Y)],
    "reshaped_twice": [
        (mx_("reshape", SPLIT, (8, 6)), mx_("reshape", X, (8, 6))),
        (mx_("reshape", mx_("flatten", X, 1, 2), (-1, 3)), mx_("reshape", X, (-1, 3))),
        (like("reshape", mx_("expand_dims", X, 0), SPLIT), like("reshape", X, SPLIT)),
    ],
    "reshaped_to_itself": [
        (like("reshape", mx_("tanh", X), X), mx_("tanh", X)),
        (
            mx_("reshape", update(SPLIT, FIRST, N), (2, 4, 3, 2)),
            update(SPLIT, FIRST, N),
        ),
        (mx_("reshape", BACK, (2, 4, 3, 2)), BACK),
    ],
    "transposed_twice": [
        (mx_("transpose", HEADS, (0, 2, 1, 3)), SPLIT),
        (
            mx_("transpose", mx_("transpose", X, (1, 2, 0)), (1, 2, 0)),
            mx_("transpose", X, (2, 0, 1)),
        ),
        (
            mx_("transpose", mx_("transpose", X, (1, 2, 0)), (0, 2, 1)),
            mx_("transpose", X, (1, 0, 2)),
        ),
    ],
    "swapped_twice": [(mx_("swapaxes", mx_("swapaxes", X, 0, 2), 2, 0), X)],
    "moved_back": [(mx_("moveaxis", mx_("moveaxis", X, 0, 2), 2, 0), X)],
    "negated_twice": [(mx_("negative", mx_("negative", X)), X)],
    "broadcast_already": [(like("broadcast", HALF, PART), HALF)],
    "broadcast_twice": [
        (like("broadcast", like("broadcast", C, PART), V), like("broadcast", C, V)),
    ],
    "cast_already": [
        (like("astype", mx_("negative", PART), X), mx_("negative", PART)),
        (
            mx_("astype", mx_("astype", X, DType("float16")), DType("float16")),
            mx_("astype", X, DType("float16")),
        ),
    ],
    "shape_from_the_source": [
        (like("broadcast", C, like("broadcast", N, X)), like("broadcast", C, X)),
    ],
    "dtype_from_the_source": [
        (like("astype", X, like("astype", V, W)), like("astype", X, W)),
    ],
}

# rule -> a node that looks alike and has to stay, because the answer would be another
STAYS: dict[str, list[Node]] = {
    "later_update_wins": [
        update(update(X, FIRST, V), LAST, V),
        update(update(X, (ALL, -1, 2), N), LAST, N),
    ],
    "later_put_wins": [put(put(NEST, 0, Y), 1, X)],
    "whole_update": [
        update(X, ALL, V),
        update(X, ALL, mx_("tanh", X)),  # of whole numbers it is no whole number
        update(X, (ALL, 1), like("full", X, N)),
    ],
    "own_value": [
        update(X, LAST, getitem(X, FIRST)),
        update(X, LAST, getitem(W, LAST)),
    ],
    "own_item": [put(NEST, 0, item(NEST, 1))],
    "own_leaves": [
        like("unflatten", NEST, Node("leaf", (NEST, 1)), Node("leaf", (NEST, 0))),
    ],
    "read_back": [
        getitem(update(X, FrozenList((0, 0)), X), FrozenList((0, 0))),
        getitem(update(X, FrozenList((0, -2)), X), FrozenList((0, -2))),
        getitem(update(X, (ALL, V), X), (ALL, V)),
        getitem(update(X, FIRST, V), LAST),
    ],
    "read_beside": [
        getitem(update(X, FIRST, V), LAST),  # one place, where there is one position
        getitem(update(X, FIRST, V), (ALL, Slice(0, 2, None))),
        getitem(update(X, (Ellipsis, 0), V), (Ellipsis, 1, 0)),
        getitem(update(X, (None, 0), V), (ALL, 1)),
    ],
    "read_all": [getitem(X, (None, Ellipsis)), getitem(X, Slice(None, None, -1))],
    "read_item_back": [item(put(NEST, 0, X), -1)],
    "read_leaf_back": [Node("leaf", (put(NEST, 0, X), 0))],
    "reshaped_twice": [mx_("reshape", mx_("transpose", X, (0, 2, 1)), (8, 6))],
    "reshaped_to_itself": [
        mx_("reshape", X, SHAPE),
        mx_("reshape", HEADS, (2, 4, 3, 2)),
        like("reshape", X, Y),
        like("reshape", mx_("add", C, ROW), C),  # (1, 6), as the sum of (6,) and (1, 6)
    ],
    "transposed_twice": [mx_("transpose", mx_("transpose", X, (0, 2, 1)), None)],
    "swapped_twice": [mx_("swapaxes", mx_("swapaxes", X, 0, 2), 0, 1)],
    "moved_back": [mx_("moveaxis", mx_("moveaxis", X, 0, 2), 0, 2)],
    "negated_twice": [mx_("negative", mx_("abs", X))],
    "broadcast_already": [like("broadcast", mx_("add", C, PART), PART), like("broadcast", N, X)],
    "broadcast_twice": [like("broadcast", mx_("tanh", like("broadcast", C, V)), X)],
    "cast_already": [
        like("astype", mx_("multiply", X, Literal(0.5)), X),
        mx_("astype", mx_("astype", X, DType("float16")), DType("float32")),
    ],
    "shape_from_the_source": [like("full", like("broadcast", N, X), N)],
    "dtype_from_the_source": [like("astype", like("astype", X, V), W)],
}
