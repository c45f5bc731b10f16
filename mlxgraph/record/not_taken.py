"""Operations that MLX refuses, said in the words of whoever wrote them.

In: a node that could not be worked out, and what its arguments are.  Out: the reason, or nothing
where MLX's own words say it.  Never: raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.nested import entries, is_container
from mlxgraph.graph.node import Node, walk
from mlxgraph.graph.values import FrozenList, Literal, dtype_name, frozen_leaves
from mlxgraph.mlx_facts.dtypes import whole_range
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.entries import to_first_array

_ELSEWHERE = {"dim": "axis", "dims": "axes", "keepdim": "keepdims", "out": "", "dtype": ""}
_BY_INDEX = (ops.GETITEM, ops.UPDATE, *ops.AT.values())


def in_other_words(node: Node, value_of: Callable[[Node], Any]) -> str:
    """What to write in place of what MLX does not take; nothing where there is nothing to say."""
    if node.op in _BY_INDEX:
        return _index(node, value_of)
    if node.op.endswith(".view") and any(type(part) is int for part in node.args[1:]):
        sizes = ", ".join(str(part) for part in node.args[1:])
        return f"MLX's view takes a dtype. Write h.reshape({sizes})."
    for child in node.inputs:
        value = value_of(child)
        if not isinstance(value, ARRAY) and is_container(value) and entries(value):
            return (
                f"one array is needed, and this is a {type(value).__name__} of several. Write"
                f" h{to_first_array(value)} for one of them."
            )
    return _other_names(node)


def _index(node: Node, value_of: Callable[[Node], Any]) -> str:
    for part in _parts(node.args[1]):
        value = value_of(part) if type(part) is Node else part
        if type(part) is Node and (name := _number_param(part)):
            return (
                f"param {name!r} is a number of any kind, and an index is a whole one. Write"
                f" mg.param({name!r}, shape=(), dtype='int32')."
            )
        if isinstance(value, Literal):
            value = value.value
        is_mask = isinstance(value, ARRAY) and dtype_name(value.dtype).startswith("bool")
        if is_mask or isinstance(value, bool):
            return (
                "MLX has no boolean index. Write mx.where(mask, h, 0), which keeps the shape, or"
                " index with whole numbers."
            )
        if isinstance(value, ARRAY) and whole_range(value.dtype) is None:
            return "an index holds whole numbers. Write h[indices.astype(mx.int32)]."
        if isinstance(value, (str, float, complex)):
            return (
                f"{value!r} is no index. Write whole numbers, slices, None, ... or arrays of whole"
                " numbers."
            )
    return ""


def _number_param(node: Node) -> str:
    """The name of a param without a shape that a value is made of, if it is of one."""
    found = (n.args[0] for n in walk([node]) if n.op == ops.PARAM and n.args[1] is None)
    return next(found, "")


def _parts(index: Any) -> Iterator[Any]:
    if type(index) is tuple:
        for part in index:
            yield from _parts(part)
    elif type(index) is FrozenList:
        yield from frozen_leaves(index)
    else:
        yield index


def _other_names(node: Node) -> str:
    """What to write for arguments that are called so elsewhere; nothing where there are none."""
    given = [name for name, _ in node.kwargs if name in _ELSEWHERE]
    if not given:
        return ""
    said = [
        f"{own}= in place of {name}=" if (own := _ELSEWHERE[name]) else f"it without {name}="
        for name in given
    ]
    return f"MLX has no {'=, '.join(given)}= here. Write {' and '.join(said)}."
