"""Values that grow with the text along axes of which it cannot be told what they are.

They are scaled, saved, and indexed along their other axes: `x[:, 3] = 0` is the same in every
forward.

In: an operation on one, what its inputs are.  Out: what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.held import Held, Nest, Odd, Plain, Refused, State, with_inputs
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import FULL, Slice

Kind = Callable[[Node], tuple[tuple[int, ...], str] | None]
_LIKES = frozenset({ops.FULL_LIKE, ops.ASTYPE_LIKE, ops.BROADCAST_LIKE})


def odd(node: Node, states: Mapping[Node, State], kind: Kind) -> State:
    """What an operation is, some of whose inputs are Odd."""
    base = states.get(node.args[0]) if node.args and type(node.args[0]) is Node else None
    if node.op == ops.GETITEM and isinstance(base, Odd):
        grown = _left(base, node.args[1], _ndim(node.args[0], kind))
        if grown is not None:
            return Odd(Node(node.op, (base.node, node.args[1])), node, grown)
    elif node.op == ops.UPDATE and isinstance(base, Odd):
        grown = _left(base, node.args[1], _ndim(node.args[0], kind))
        value = states.get(node.args[2]) if type(node.args[2]) is Node else None
        if grown is not None and value is not None and _goes_with(node.args[2], value, grown, kind):
            made = Node(node.op, (base.node, node.args[1], value.node))  # type: ignore[union-attr]
            return base._replace(node=made, origin=node)
    elif node.op in ops.ELEMENTWISE or node.op in _LIKES:
        first = next(s for s in states.values() if isinstance(s, Odd))
        if all(_goes_with(child, s, first.grown, kind) for child, s in states.items()):
            inputs = {c: s.node for c, s in states.items()}  # type: ignore[union-attr]
            return Odd(with_inputs(node, inputs), node, first.grown)  # type: ignore[arg-type]
    return Refused(
        node,
        f"{ops.short(node.op)} of a value that grows with the text in a way of its own",
        "Scale it, save it, or index its other axes: `x[:, 3] = 0`.",
    )


def _ndim(node: Node, kind: Kind) -> int:
    known = kind(node)
    return 0 if known is None else len(known[0])


def _left(base: Odd, index: Any, ndim: int) -> frozenset[int] | None:
    """The axes that grow of the part that an index shows; None for an index into one of them."""
    parts = list(index) if type(index) is tuple else [index]
    if not base.grown or not all(p is Ellipsis or type(p) in (int, Slice) for p in parts):
        return None
    missing = [FULL] * (ndim - sum(1 for part in parts if part is not Ellipsis))
    at = next((k for k, part in enumerate(parts) if part is Ellipsis), len(parts))
    parts[at : at + 1] = missing
    axes = {ndim + axis for axis in base.grown}
    if len(parts) != ndim or any(parts[axis] != FULL for axis in axes):
        return None
    kept = [axis for axis, part in enumerate(parts) if type(part) is not int]
    return frozenset(kept.index(axis) - len(kept) for axis in axes)


def _goes_with(node: Node, state: State, grown: frozenset[int], kind: Kind) -> bool:
    """Whether a value is broadcast along the axes that grow, or grows along them too."""
    if isinstance(state, Odd):
        return bool(grown) and state.grown == grown
    if not isinstance(state, Plain) or isinstance(state, (Held, Nest)):
        return False
    known = kind(node)
    if known is None:
        return True
    shape = known[0]
    if not grown:
        return all(size == 1 for size in shape)
    return all(shape[axis] == 1 for axis in grown if -axis <= len(shape))
