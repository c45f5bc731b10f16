"""How the chunks of a prompt make one saved value, where they have keys for different numbers of
tokens.

In: what a saved value is in one forward.  Out: what its chunks are padded with and joined along.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

from mlxgraph.graph import ops
from mlxgraph.graph.held import Both, Held, Plain, Refused, State
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import DType
from mlxgraph.rewrite.fitting import Fitting


class Keys(NamedTuple):
    """How the values of several chunks are joined.

    Attributes:
        rows: the axis along which they follow each other, or None.
        axis: that of the keys; size: how many there are by the end of the step.
        here: which of them a value has, or None for all of them.
        pad: what stands for the others.
    """

    rows: int | None
    axis: int
    size: int
    here: tuple[int, ...] | None
    pad: float


_CHANGES = ops.ELEMENTWISE | {
    ops.UPDATE,
    *ops.AT.values(),
    ops.FULL_LIKE,
    ops.NORMAL_LIKE,
    ops.BROADCAST_LIKE,
}


UNKNOWN = float("nan")  # what a row that was computed holds for later keys


def is_known(pad: float | None) -> TypeGuard[float]:
    """Whether it is known what a row holds for later keys."""
    return pad is not None and pad == pad


def padded(node: Node, state: State) -> State:
    """A state without what stands for later keys, where an operation may have changed that."""
    if isinstance(state, Held) and state.pad is not None and node.op in _CHANGES:
        return state._replace(pad=UNKNOWN)
    return state


def unknown(node: Node) -> Refused:
    """A later key of a value that was computed."""
    return Refused(
        node,
        "a later key of a value that was computed",
        "Take the key first, and then compute: `2.0 + pattern[..., 5]`.",
    )


def later_key(node: Node, pad: float, fit: Fitting) -> State:
    """A later key of one row."""
    return Plain(filled(node, pad, None, fit)) if is_known(pad) else unknown(node)


def filled(
    node: Node, pad: float, rows: Held | None, fit: Fitting, keys: Held | None = None
) -> Node:
    """A value of a forward that holds none of its keys."""
    kind = fit.about.kind(node)
    assert kind is not None
    shape = list(kind[0])
    if rows is not None:
        shape[rows.axis] = len(rows.here)
    if keys is not None:
        shape[keys.axis] = len(keys.chosen)
    fit.exact = True
    return Node(ops.MX_FULL, (tuple(shape), pad, DType(kind[1])))


def to_join(state: Both | Held, fit: Fitting) -> Any:
    """How the chunks of a saved value are joined, as `Save.axes` says it."""
    keys, rows = (state.keys, state.rows.axis) if isinstance(state, Both) else (state, None)
    fit.counted = True
    if not is_known(state.pad):
        return frozenset({rows, keys.axis}) if rows is not None else None
    complete = len(keys.here) == len(keys.chosen)
    fit.exact = fit.exact or not complete
    here = None if complete else tuple(keys.here)
    return Keys(rows, keys.axis, 0 if complete else len(keys.chosen), here, state.pad)


def saved_without_keys(node: Node, state: State, fit: Fitting) -> tuple[Node, Any] | None:
    """A saved value all of whose keys are later than the tokens of this forward, if it is one."""
    if isinstance(state, Both) and is_known(state.pad):
        rows, keys = state.rows, state.keys
    elif isinstance(state, Held) and state.grown and is_known(state.pad):
        rows, keys = None, state
    else:
        return None
    if (rows is not None and not rows.here) or keys.here or not keys.chosen:
        return None
    made = filled(node, state.pad, rows, fit, keys)
    return made, Keys(rows and rows.axis, keys.axis, 0, None, state.pad)
