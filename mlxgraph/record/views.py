"""Views: how to get from a value to a part of it, and back.

A view knows how to take the part (`take`) and how to put a changed part back into the whole
(`put`).  A chain of views is what makes `rearrange(q.output, ...)[:, 2] = 0` edit the site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mlxgraph.graph import ops
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import FULL, FrozenList, Slice

Build = Callable[..., Node]
_PUT_SLICE = "put_slice"


class View(NamedTuple):
    """One view operation: `op(base, *args)` takes the part, `back` says how it is put back."""

    op: str
    args: tuple
    back: str
    back_args: tuple = ()

    def take(self, build: Build, base: Node) -> Node:
        """The part of `base` that this view shows."""
        return build(self.op, (base, *self.args))

    def shows_twice(self, look: Callable[[Any], Any]) -> bool:
        """Whether an index chooses a place more than once, as far as its numbers are known.

        Args: look: gives the values of a constant, or None.
        """
        if self.op != ops.GETITEM:
            return False
        parts = self.args[0] if type(self.args[0]) is tuple else self.args[:1]
        for part in parts:
            numbers = list(part.value) if type(part) is FrozenList else look(part)
            if numbers is not None and len(set(map(repr, numbers))) < len(numbers):
                return True
        return False

    def put(self, build: Build, base: Node, part: Node) -> Node:
        """`base` with this view's part replaced."""
        if self.back == ops.RESHAPE_LIKE:
            return build(ops.RESHAPE_LIKE, (part, base))
        if self.back == ops.UPDATE and _leads_with_none(self.args[0]):
            # `h[None] = v`: MLX writes no further axes in front, and they hold no more numbers
            rest = _without_leading_none(self.args[0])
            inner = build(ops.GETITEM, (base, rest)) if rest else base
            part = build(ops.RESHAPE_LIKE, (part, inner))
            return build(ops.UPDATE, (base, rest, part)) if rest else part
        if self.back in (ops.UPDATE, ops.PUT):
            return build(self.back, (base, self.args[0], part))
        if self.back == _PUT_SLICE:
            return build(ops.UPDATE, (base, *self.back_args, part))
        return build(self.back, (part, *self.back_args))


def _leads_with_none(index: Any) -> bool:
    return index is None or (type(index) is tuple and index[:1] == (None,))


def _without_leading_none(index: Any) -> tuple:
    parts = () if index is None else index
    return _without_leading_none(parts[1:]) if parts[:1] == (None,) else parts


def index(frozen_index: Any) -> View:
    """`h[index]`"""
    return View(ops.GETITEM, (frozen_index,), ops.UPDATE)


def item(key: Any) -> View:
    """An entry of a nested value."""
    return View(ops.ITEM, (key,), ops.PUT)


def reshaped(op: str, args: tuple) -> View:
    """reshape, flatten, unflatten, squeeze, expand_dims: the same numbers in another shape."""
    return View(op, args, ops.RESHAPE_LIKE)


def transposed(axes: tuple[int, ...]) -> View:
    """A permutation of the axes, undone by its inverse."""
    inverse = sorted(range(len(axes)), key=axes.__getitem__)
    return View(ops.MX_TRANSPOSE, (axes,), ops.MX_TRANSPOSE, (tuple(inverse),))


def swapped(first: int, second: int) -> View:
    """Two axes exchanged."""
    return View(ops.MX_SWAPAXES, (first, second), ops.MX_SWAPAXES, (first, second))


def moved(source: int, destination: int) -> View:
    """One axis moved to another position."""
    return View(ops.MX_MOVEAXIS, (source, destination), ops.MX_MOVEAXIS, (destination, source))


def piece(op_args: tuple, number: int, start: int, stop: int, axis: int, ndim: int) -> View:
    """The `number`-th part of `mx.split(h, *op_args)`."""
    where = tuple(Slice(start, stop, None) if a == axis else FULL for a in range(ndim))
    return View(ops.SPLIT_PART, (*op_args, number), _PUT_SLICE, (where,))
