"""What an edit does to each vector along the last axis, where that is one affine map for all.

In: the node that a write puts at its site, and the graph's constants.  Out: an `Affine`: how it
acts on vectors, and the constant that it adds; or `NotAffine`, with the reason.
Read off the operations, never tried on numbers: a clamp whose limits no value has reached is no
affine map.
Never: looks at a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.evaluate.known import known_values
from mlxgraph.graph import ops
from mlxgraph.graph.node import Node, is_draw, site_of, walk
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import FULL

Map = Callable[[mx.array], mx.array]


class NotAffine(Exception):  # noqa: N818 - a reason, which never leaves this room
    """Why a value is no affine map of its site's."""


class Affine(NamedTuple):
    """`y -> linear(y) + offset`, for vectors y along the last axis.

    Attributes:
        linear: of an array (..., width), row by row; None for zero.
        offset: a number or an array (width,); None for none.
        scale: where the linear part multiplies each entry by a number: it, or them, (width,).
        dropped: whether it is one number for each vector, without an axis of its own.
    """

    linear: Map | None
    offset: Any = None
    scale: Any = None
    dropped: bool = False

    def __call__(self, rows: mx.array) -> mx.array:
        """Of vectors, (..., width)."""
        made = self.of_rows(rows)
        return made if self.offset is None else made + self.offset

    def of_rows(self, rows: mx.array) -> mx.array:
        """The linear part alone."""
        if self.linear is None:
            return mx.zeros_like(rows)
        return mx.broadcast_to(self.linear(rows), rows.shape)

    def after(self, first: Affine) -> Affine:
        """First another, then this."""
        inner, outer = first.linear, self.linear
        linear = None if inner is None or outer is None else lambda rows: outer(inner(rows))
        moved = None if outer is None else _of(outer, first.offset)
        both = first.scale is not None and self.scale is not None
        scale = first.scale * self.scale if both else None
        return Affine(linear, _sum(moved, self.offset), scale)


def _same(rows: mx.array) -> mx.array:
    return rows


IDENTITY = Affine(_same, None, 1.0)
_HOLDS = frozenset({ops.MX_ASTYPE, ops.ASTYPE_LIKE, ops.MX_STOP_GRADIENT, ops.BROADCAST_LIKE})
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_SUMS = frozenset({ops.MX_ADD, ops.MX_SUBTRACT})
_PRODUCTS = frozenset({ops.MX_MULTIPLY, ops.MX_DIVIDE})


def affine_of(root: Node, site: Site, constants: Sequence[Any]) -> Affine:
    """The map from a site's value to a node's.  Raises: NotAffine."""
    nodes = list(walk([root]))
    known = known_values(nodes, constants, {})
    found: dict[Node, Any] = {}
    for node in nodes:
        if node in known:
            found[node] = known[node]
        else:
            found[node] = _made(node, site, found)
    value = found[root]
    if not isinstance(value, Affine):
        value = Affine(None, _nonzero(_row(value)))
    if value.dropped:
        raise NotAffine("it gives one number in place of a vector")
    return value


def _made(node: Node, site: Site, found: dict[Node, Any]) -> Any:
    args = [found[a] if isinstance(a, Node) else a for a in node.args]
    op = node.op
    if op == ops.SITE:
        own = site_of(node)
        if (own.path, own.port) != (site.path, site.port):
            raise NotAffine(f"it reads {own.spoken} as well")
        return IDENTITY
    if op == ops.PARAM:
        name = node.args[0]
        raise NotAffine(f"its param {name!r} has no value: write g.bind({name}=...)")
    if is_draw(node):
        raise NotAffine("it draws random numbers at every run")
    if op in (ops.APPLY, ops.CALL, ops.GRAD):
        raise NotAffine("it runs a function that the graph cannot look into")
    if op in (ops.ITEM, ops.PUT):  # of a site that gives a tuple, which starts with its value
        if args[1] not in (0, (0,)) or args[0] is not IDENTITY:
            raise NotAffine("it takes another entry of a tuple than the first")
        return args[0] if op == ops.ITEM else args[2]
    if op in _HOLDS:
        return _held(op, args)
    if op in (ops.FULL_LIKE, ops.MX_ZEROS_LIKE, ops.MX_ONES_LIKE):
        return _full(op, args)
    if op == ops.MX_NEGATIVE:
        return _times(args[0], -1.0)
    if op in _SUMS:
        second = _negative(args[1]) if op == ops.MX_SUBTRACT else args[1]
        return _added(args[0], second)
    if op in _PRODUCTS:
        return _product(op, args)
    if op == ops.MX_MATMUL and isinstance(args[0], Affine) and not isinstance(args[1], Affine):
        return _matmul(args[0], args[1])
    if op in (ops.MX_SUM, ops.GETITEM, ops.MX_EXPAND_DIMS, ops.UPDATE):
        return _along(node, args)
    raise NotAffine(f"{ops.short(op)} is none of the operations that a weight can take over")


def _held(op: str, args: list[Any]) -> Any:
    """A value in another dtype, or in the shape of another."""
    value = args[0]
    if isinstance(value, Affine) and value.dropped:
        raise NotAffine("it gives one number in place of a vector")
    if op == ops.MX_ASTYPE and getattr(args[1], "value", "") not in _FLOATS:
        raise NotAffine("it rounds to whole numbers")
    like = args[1] if op == ops.ASTYPE_LIKE else None
    if isinstance(like, mx.array) and not mx.issubdtype(like.dtype, mx.floating):
        raise NotAffine("it rounds to whole numbers")
    return value


def _full(op: str, args: list[Any]) -> Any:
    """A constant of the site's shape."""
    if op == ops.FULL_LIKE:
        if isinstance(args[1], Affine):
            raise NotAffine("it fills the site with a value of the site")
        return args[1]
    return 0.0 if op == ops.MX_ZEROS_LIKE else 1.0


def _row(value: Any) -> Any:
    """A constant as what is done to each vector: a number, or (width,)."""
    if not isinstance(value, mx.array) or value.ndim == 0:
        return value
    if any(size != 1 for size in value.shape[:-1]):
        raise NotAffine(
            f"it takes another number at each position, from an array of shape {value.shape}, and a"
            " weight is for all positions"
        )
    return value.reshape(-1).astype(mx.float32)


def _nonzero(offset: Any) -> Any:
    """What is added; None where it is the number 0."""
    is_one = not isinstance(offset, mx.array) or offset.size == 1
    return None if is_one and float(offset) == 0 else offset


def _of(linear: Map | None, offset: Any) -> Any:
    """A linear map of what is added, which may be one number for all of the width."""
    if offset is None or linear is None:
        return None
    if isinstance(offset, mx.array) and offset.ndim:
        return linear(offset[None])[0]
    raise NotAffine("it adds one number along the whole width and mixes the width afterwards")


def _sum(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other


def _negative(value: Any) -> Any:
    return _times(value, -1.0) if isinstance(value, Affine) else -value


def _times(value: Any, factor: Any) -> Any:
    """A value times a constant."""
    if not isinstance(value, Affine):
        return value * factor
    factor, linear = _row(factor), value.linear
    by_entry = isinstance(factor, mx.array) and factor.size > 1
    if value.dropped and by_entry:
        raise NotAffine("it multiplies one number for each vector by an array")
    made = None if linear is None else lambda rows: linear(rows) * factor
    offset = None if value.offset is None else value.offset * factor
    scale = None if value.scale is None else value.scale * factor
    return Affine(made, offset, scale, value.dropped)


def _added(one: Any, other: Any) -> Any:
    if not isinstance(one, Affine) and not isinstance(other, Affine):
        return one + other
    if not isinstance(one, Affine):
        one, other = other, one
    if not isinstance(other, Affine):
        if one.dropped:
            raise NotAffine("it adds to one number for each vector")
        return one._replace(offset=_sum(one.offset, _row(other)))
    if one.dropped != other.dropped:
        raise NotAffine("it adds one number for each vector to the vectors")
    first, second = one.linear, other.linear
    if first is None or second is None:
        linear = first or second
    else:
        linear = lambda rows: first(rows) + second(rows)  # noqa: E731
    both = one.scale is not None and other.scale is not None
    scale = one.scale + other.scale if both else None
    return Affine(linear, _sum(one.offset, other.offset), scale, one.dropped)


def _product(op: str, args: list[Any]) -> Any:
    one, other = args
    if isinstance(one, Affine) and isinstance(other, Affine):
        raise NotAffine("it multiplies the value of its site by that value")
    if op == ops.MX_DIVIDE:
        if isinstance(other, Affine):
            raise NotAffine("it divides by the value of its site")
        return _times(one, 1.0 / other) if isinstance(one, Affine) else one / other
    return _times(one, other) if isinstance(one, Affine) else _times(other, one)


def _matmul(value: Affine, matrix: Any) -> Affine:
    """Vectors by a matrix (width, other), or by a vector (width,)."""
    if value.dropped or not isinstance(matrix, mx.array) or matrix.ndim not in (1, 2):
        raise NotAffine("its product is not one of vectors and a matrix")
    whole = matrix.reshape(matrix.shape[0], -1).astype(mx.float32)
    linear = value.linear
    made = None if linear is None else lambda rows: linear(rows) @ whole
    offset = _of(lambda rows: rows @ whole, value.offset)
    return Affine(made, offset, None, matrix.ndim == 1)


def _along(node: Node, args: list[Any]) -> Any:
    """Sums along the width, new axes at its end, and the whole of a value by an index."""
    op, value, named = node.op, args[0], dict(node.kwargs)
    rest = [*args[1:]]
    if op == ops.UPDATE:
        if not _is_whole(rest[0]):
            raise NotAffine("it edits some positions or entries alone")
        return rest[1]
    if op == ops.GETITEM:
        if _is_whole(rest[0]):
            return value
        if rest[0] == (Ellipsis, None) and value.dropped:
            return value._replace(dropped=False)
        raise NotAffine("it picks some positions or entries")
    axis = named.get("axis", rest[0] if rest else None)
    if op == ops.MX_EXPAND_DIMS:
        if axis == -1 and value.dropped:
            return value._replace(dropped=False)
        raise NotAffine("it gives its site another axis")
    keep = named.get("keepdims", rest[1] if len(rest) > 1 else False)
    keep = bool(getattr(keep, "value", keep))
    if axis != -1 or value.dropped or not isinstance(value, Affine):
        raise NotAffine("it sums over more than the width of each vector (write axis=-1)")
    linear = value.linear
    made = None if linear is None else lambda rows: linear(rows).sum(axis=-1, keepdims=True)
    offset = _of(lambda rows: rows.sum(axis=-1, keepdims=True), value.offset)
    return Affine(made, offset, None, not keep)


def _is_whole(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is Ellipsis or part == FULL for part in parts)
