"""What each operation name means: the one place where nodes become MLX calls.

In: a node and the values of its inputs.  Out: its value.  The same table serves shape inference
on placeholders, eager runs, compiled traces and looks, so they cannot disagree.
The functions are taken when this module is imported: interception never reaches them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.errors import MLXGraphError, OperationError
from mlxgraph.graph.nested import leaves, map_nested, replace_item, unflatten
from mlxgraph.graph.node import APPLY, CONSTANT, LEAVES, NUMBER, PARAM, Node
from mlxgraph.graph.values import DType, FrozenDict, FrozenList, Literal, Opaque, Slice

_ARRAY = mx.array
_NAMESPACES = {
    "mx": dict(vars(mx)),
    "mx.linalg": dict(vars(mx.linalg)),
    "mx.fast": dict(vars(mx.fast)),
    "mx.fft": dict(vars(mx.fft)),
    "mx.random": dict(vars(mx.random)),
    "nn": {**vars(nn.layers.activations), **vars(nn)},
    "nn.losses": dict(vars(nn.losses)),
}


def handle_on(value: Any) -> Any:
    """A new handle on the same data: models and functions change arrays in place (`x += y`)."""
    return map_nested(value, lambda v: v.__copy__() if isinstance(v, _ARRAY) else v)


Lookup = Callable[[Node], Any]


def update(base: mx.array, index: Any, value: Any) -> mx.array:
    """`base` with `base[index] = value` done to a copy."""
    changed = base.__copy__()
    changed[index] = value
    return changed


def _at(name: str) -> Callable[[mx.array, Any, Any], mx.array]:
    return lambda base, index, value: getattr(base.at[index], name)(value)


def _split_part(base: mx.array, how: Any, axis: int, number: int) -> mx.array:
    return _NAMESPACES["mx"]["split"](base, list(how) if isinstance(how, tuple) else how, axis)[
        number
    ]


def _full_like(base: mx.array, value: Any) -> mx.array:
    # MLX 0.32 leaves a float in an integer array a float
    return _NAMESPACES["mx"]["full"](base.shape, value, dtype=base.dtype).astype(base.dtype)


SPECIAL: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "update": update,
    "item": operator.getitem,
    "put": replace_item,
    "leaf": lambda base, index: leaves(base)[index],
    "unflatten_like": lambda base, *parts: unflatten(base, list(parts)),
    "reshape_like": lambda part, base: _NAMESPACES["mx"]["reshape"](part, base.shape),
    "broadcast_like": lambda part, base: _NAMESPACES["mx"]["broadcast_to"](part, base.shape),
    "astype_like": lambda part, base: part.astype(base.dtype),
    "full_like": _full_like,
    "mx.random.normal_like": lambda base: _NAMESPACES["mx.random"]["normal"](
        base.shape, base.dtype
    ),
    "split_part": _split_part,
    "array.and": operator.and_,
    "array.or": operator.or_,
    "array.xor": operator.xor,
    "array.invert": operator.invert,
    "array.make": lambda *args, **kwargs: _ARRAY(*args, **kwargs),
    **{
        f"at.{name}": _at(name)
        for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")
    },
}
_DRAW = "mx.random."
_resolved: dict[str, Callable[..., Any]] = {}


def function(op: str) -> Callable[..., Any]:
    """The callable behind an operation's name."""
    known = SPECIAL.get(op) or _resolved.get(op)
    if known is None:
        prefix, _, name = op.rpartition(".")
        known = _NAMESPACES.get(prefix, {}).get(name)
        if not callable(known):
            raise OperationError(op, "anything", "", "there is no such operation")
        _resolved[op] = known
    return known


def thaw(value: Any, lookup: Lookup) -> Any:
    """A frozen argument as the Python value that MLX takes."""
    kind = type(value)
    if kind is Node:
        return lookup(value)
    if kind is tuple:
        return tuple([thaw(item, lookup) for item in value])
    if kind is Slice:
        return slice(*[_whole(thaw(item, lookup)) for item in value.value])
    if kind is Literal or kind is Opaque:
        return value.value
    if kind is FrozenList:
        return [thaw(item, lookup) for item in value.value]
    if kind is DType:
        return getattr(mx, value.value)
    if kind is FrozenDict:
        return {name: thaw(item, lookup) for name, item in value.value}
    return value


def _whole(value: Any) -> Any:
    return value.item() if isinstance(value, _ARRAY) else value


def evaluate(node: Node, lookup: Lookup) -> Any:
    """The value of one node that is no leaf and calls no module."""
    args = [thaw(value, lookup) for value in node.args]
    if any(type(value) is Node and value.op in (NUMBER, PARAM) for value in node.args):
        args = _weakly_typed(node, args)
    kwargs = {name: thaw(value, lookup) for name, value in node.kwargs}
    op = node.op
    if op == APPLY:  # on handles of its own: what it does in place stays with it
        inputs, named = handle_on((args[1:], kwargs))
        return args[0](*inputs, **named)
    if op.startswith(_DRAW) and type(node.args[0]) is int:
        args = args[1:]  # the first argument only tells one draw from another
    return function(op)(*args, **kwargs)


def is_weak(node: Any) -> bool:
    """Whether a node is a Python number in disguise: it takes the dtype of what it meets."""
    return type(node) is Node and (node.op == NUMBER or (node.op == PARAM and node.args[1] is None))


def _weakly_typed(node: Node, args: list[Any]) -> list[Any]:
    """Give lifted numbers the dtype that MLX would give the Python number in their place."""
    partner = next(
        (
            value.dtype
            for child, value in zip(node.args, args, strict=True)
            if isinstance(value, _ARRAY)
            and not is_weak(child)
            and not (node.op == "mx.where" and value is args[0])
        ),
        None,
    )
    if partner is None:
        return args
    return [
        value.astype(_met(value.dtype, partner))
        if is_weak(child) and isinstance(value, _ARRAY)
        else value
        for child, value in zip(node.args, args, strict=True)
    ]


def _met(number: mx.Dtype, partner: mx.Dtype) -> mx.Dtype:
    """The dtype of a Python number beside an array of dtype `partner`."""
    if number == mx.bool_:
        return partner
    if mx.issubdtype(number, mx.integer):
        return mx.int32 if partner == mx.bool_ else partner
    return partner if mx.issubdtype(partner, mx.inexact) else mx.float32


class NodeFailure(Exception):  # noqa: N818 - never leaves this room
    """A node that MLX cannot compute from these values; whoever has the graph says it in full."""

    def __init__(self, node: Node, error: Exception):
        super().__init__(node, error)
        self.node = node
        self.error = error


class Values:
    """Node values of one run, computed on demand and each once."""

    __slots__ = ("known", "_call", "_after")

    def __init__(
        self,
        known: dict[Node, Any],
        call: Callable[[Node, Lookup], Any] | None = None,
        after: Callable[[Node, Any], Any] | None = None,
    ):
        self.known = known
        self._call = call
        self._after = after

    def __getitem__(self, node: Node) -> Any:
        if node not in self.known:
            self._compute(node)
        return self.known[node]

    def _compute(self, root: Node) -> None:
        stack = [root]
        known = self.known
        while stack:
            node = stack[-1]
            if node in known:
                stack.pop()
                continue
            waiting = [child for child in node.inputs if child not in known]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            stack.pop()
            if node.op in LEAVES:
                raise KeyError(f"the run has no value for {node.op} {node.args}")
            value = self._one(node)
            known[node] = value if self._after is None else self._after(node, value)

    def _one(self, node: Node) -> Any:
        if node.op == "call" and self._call is not None:
            return self._call(node, self.known.__getitem__)
        try:
            return evaluate(node, self.known.__getitem__)
        except (ValueError, TypeError, IndexError) as error:
            if node.op == APPLY or isinstance(error, MLXGraphError):
                raise  # the user's own function, or said already
            raise NodeFailure(node, error) from error


def bind_leaves(nodes: Iterable[Node], constants: Any, params: dict[str, Any]) -> dict[Node, Any]:
    """The values of the constant, number and parameter leaves among `nodes`."""
    known: dict[Node, Any] = {}
    for node in nodes:
        if node.op in (CONSTANT, NUMBER):
            known[node] = constants[node.args[0]]
        elif node.op == PARAM:
            known[node] = params[node.args[0]]
    return known
