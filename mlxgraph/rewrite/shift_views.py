"""Values with an axis of positions, in another shape: which axis that is then.

A view keeps every number of a position at that position; a chain of views that is undone again
gives the value itself.

In: a node and what its argument is of.  Out: what its value is of, or Unsure.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from mlxgraph.graph import ops
from mlxgraph.graph.held import FULL
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import Slice

PERMUTES = frozenset(
    {ops.MX_TRANSPOSE, ops.MX_PERMUTE_DIMS, ops.MX_SWAPAXES, ops.MX_MOVEAXIS}
    | {ops.MX_MATRIX_TRANSPOSE}
)
RESHAPES = frozenset({ops.MX_RESHAPE, ops.MX_FLATTEN, ops.MX_UNFLATTEN})


class Unsure(Exception):
    """The graph does something that cannot be followed."""


class Text(NamedTuple):
    """A value with an axis of positions.

    Attributes:
        axis: of the positions, counted from the first.
        shape: in the whole forward.
        clean: what the value is at every position that was not written: a node without updates.
            It is only compared, never run.  None for what was computed.
        grown: whether it is of all tokens so far, and the same in a forward of fewer.
    """

    axis: int
    shape: tuple[int, ...]
    clean: Node | None
    grown: bool = False


def permuted(node: Node, base: Text) -> Text:
    axes = _permutation(node, len(base.shape))
    shape = tuple([base.shape[k] for k in axes])
    clean = base.clean
    if clean is not None:
        undone = clean.op == ops.MX_TRANSPOSE and [clean.args[1][k] for k in axes]
        clean = clean.args[0] if undone == sorted(axes) else Node(ops.MX_TRANSPOSE, (clean, axes))
    return Text(axes.index(base.axis), shape, clean, base.grown)


def reshaped(node: Node, base: Text, length: int) -> tuple[Text, int | None]:
    """A value in another shape, and where in that the length of the text is written out."""
    shape = _new_shape(node, base.shape)
    before = prod(base.shape[: base.axis])
    places = [k for k, n in enumerate(shape) if n == length and prod(shape[:k]) == before]
    if not places or length < 2:
        raise Unsure
    at, literal = places[0], None
    if node.op == ops.MX_UNFLATTEN and node.args[1] % len(base.shape) == base.axis:
        raise Unsure
    if node.op == ops.MX_RESHAPE and node.args[1][at] != -1:
        literal = at
    clean = None if base.clean is None else Node(node.op, (base.clean, *node.args[1:]))
    return Text(at, shape, clean, base.grown), literal


def split_part(node: Node, base: Text) -> Text:
    """One part of a value that is split along another axis than that of the positions."""
    _, how, axis, number = node.args
    size = base.shape[axis]
    bounds = [0, *how, size] if type(how) is tuple else range(0, size + 1, size // how)
    start, stop = bounds[number], bounds[number + 1]
    at = axis % len(base.shape)
    if at == base.axis:
        raise Unsure
    where = tuple([Slice(start, stop, None) if k == at else FULL for k in range(len(base.shape))])
    shape = (*base.shape[:at], stop - start, *base.shape[at + 1 :])
    clean = None if base.clean is None else Node(ops.GETITEM, (base.clean, where))
    return Text(base.axis, shape, clean, base.grown)


def _permutation(node: Node, ndim: int) -> tuple[int, ...]:
    """The axis that each axis of a permuted value was."""
    axes, args = list(range(ndim)), node.args[1:]
    if any(type(n) is not int for n in _flat(args)) or node.kwargs:
        raise Unsure
    if node.op == ops.MX_MATRIX_TRANSPOSE:
        args = (-1, -2)
    elif node.op == ops.MX_MOVEAXIS:
        axes.insert(args[1] % ndim, axes.pop(args[0] % ndim))
        return tuple(axes)
    elif node.op != ops.MX_SWAPAXES:
        return tuple([axes[k] for k in args[0]]) if args else tuple(reversed(axes))
    one, other = args[0] % ndim, args[1] % ndim
    axes[one], axes[other] = axes[other], axes[one]
    return tuple(axes)


def _new_shape(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    args = node.args[1:]
    if any(type(n) is not int for n in _flat(args)) or node.kwargs:
        raise Unsure
    if node.op == ops.MX_RESHAPE:
        new = tuple(args[0])
    else:
        start = args[0] % len(shape) if args else 0
        if node.op == ops.MX_UNFLATTEN:
            stop, made = start, tuple(args[1])
        else:
            stop = (args[1] if len(args) > 1 else -1) % len(shape)
            made = (prod(shape[start : stop + 1]),)
        new = (*shape[:start], *made, *shape[stop + 1 :])
    if -1 not in new:
        return new
    rest = prod(n for n in new if n != -1)
    return tuple([prod(shape) // rest if n == -1 else n for n in new]) if rest else new


def _flat(args: tuple) -> list[Any]:
    return [n for arg in args for n in (arg if type(arg) is tuple else (arg,))]
