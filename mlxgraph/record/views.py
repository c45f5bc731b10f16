"""Views: the steps that lead from a site's value to a part of it, and back.

A step knows how to take the part (`take`) and how to put a changed part back into the whole
(`put`).  A chain of steps is what makes `rearrange(q.output, ...)[:, 2] = 0` edit the site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mlxgraph.graph.node import Node
from mlxgraph.graph.values import Slice

Build = Callable[..., Node]


class Step(NamedTuple):
    """One view operation: `op(base, *args)` takes the part, `back` says how it is put back."""

    op: str
    args: tuple
    back: str
    back_args: tuple = ()

    def take(self, build: Build, base: Node) -> Node:
        """The part of `base` that this view shows."""
        return build(self.op, (base, *self.args))

    def put(self, build: Build, base: Node, part: Node) -> Node:
        """`base` with this view's part replaced."""
        if self.back == "reshape_like":
            return build("reshape_like", (part, base))
        if self.back in ("update", "put"):
            return build(self.back, (base, self.args[0], part))
        if self.back == "put_slice":
            return build("update", (base, *self.back_args, part))
        return build(self.back, (part, *self.back_args))


def index(frozen_index: Any) -> Step:
    """`h[index]`"""
    return Step("getitem", (frozen_index,), "update")


def item(key: Any) -> Step:
    """An entry of a nested value."""
    return Step("item", (key,), "put")


def reshaped(op: str, args: tuple) -> Step:
    """reshape, flatten, unflatten, squeeze, expand_dims: the same numbers in another shape."""
    return Step(op, args, "reshape_like")


def transposed(axes: tuple[int, ...]) -> Step:
    """A permutation of the axes, undone by its inverse."""
    inverse = sorted(range(len(axes)), key=axes.__getitem__)
    return Step("mx.transpose", (axes,), "mx.transpose", (tuple(inverse),))


def swapped(first: int, second: int) -> Step:
    """Two axes exchanged."""
    return Step("mx.swapaxes", (first, second), "mx.swapaxes", (first, second))


def moved(source: int, destination: int) -> Step:
    """One axis moved to another place."""
    return Step("mx.moveaxis", (source, destination), "mx.moveaxis", (destination, source))


def piece(op_args: tuple, number: int, start: int, stop: int, axis: int, ndim: int) -> Step:
    """The `number`-th part of `mx.split(h, *op_args)`."""
    full = Slice(None, None, None)
    where = tuple(Slice(start, stop, None) if a == axis else full for a in range(ndim))
    return Step("split_part", (*op_args, number), "put_slice", (where,))
