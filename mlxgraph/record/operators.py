"""Operators and methods: what `h + 1`, `1 + h`, `h += 1` and `h.mean(-1)` record.

In: the operation's name.  Out: a method for a handle's class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxgraph.record.freeze import freeze
from mlxgraph.record.handle import open_recording
from mlxgraph.record.view_functions import view_call

BINARY = {
    "add": "mx.add",
    "sub": "mx.subtract",
    "mul": "mx.multiply",
    "truediv": "mx.divide",
    "div": "mx.divide",
    "floordiv": "mx.floor_divide",
    "mod": "mx.remainder",
    "matmul": "mx.matmul",
    "and": "array.and",
    "or": "array.or",
    "xor": "array.xor",
    "lshift": "mx.left_shift",
    "rshift": "mx.right_shift",
}
COMPARE = {
    "lt": "mx.less",
    "le": "mx.less_equal",
    "gt": "mx.greater",
    "ge": "mx.greater_equal",
    "eq": "mx.equal",
    "ne": "mx.not_equal",
}
UNARY = {"neg": "mx.negative", "pos": "mx.positive", "abs": "mx.abs", "invert": "array.invert"}


METHODS = (
    "abs all any argmax argmin astype conj cos cummax cummin cumprod cumsum diag diagonal exp log "
    "log10 log1p log2 logcumsumexp logsumexp max mean min prod reciprocal round rsqrt sin sqrt "
    "square std sum var view"
).split()
VIEW_METHODS = "flatten moveaxis reshape split squeeze swapaxes transpose".split()


def _binary(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        recording = open_recording(self)
        return recording.result(op, (self._node, recording.operand(other)))

    return method


def _reflected(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        recording = open_recording(self)
        return recording.result(op, (recording.operand(other), self._node))

    return method


def _in_place(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        recording = open_recording(self)
        recording.augment(self, op, recording.operand(other))
        return self

    return method


def _unary(op: str) -> Callable[[Any], Any]:
    def method(self: Any) -> Any:
        return open_recording(self).result(op, (self._node,))

    return method


def _power(self: Any, other: Any) -> Any:
    """The exponent stays a constant: MLX treats small whole powers apart."""
    return open_recording(self).call("mx.power", (self, other), {})


def _reflected_power(self: Any, other: Any) -> Any:
    recording = open_recording(self)
    return recording.result("mx.power", (recording.operand(other), self._node))


def _in_place_power(self: Any, other: Any) -> Any:
    recording = open_recording(self)
    recording.augment(self, "mx.power", freeze(other, recording))
    return self


def _method(op: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return open_recording(self).call(op, (self, *args), kwargs)

    return method


def _view_method(op: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return view_call(op, self, args, kwargs)

    return method


def operators(both_ways: bool = True) -> dict[str, Callable[..., Any]]:
    """The arithmetic of a handle, by method name; with or without the in-place forms."""
    found: dict[str, Callable[..., Any]] = {}
    for name, op in BINARY.items():
        found[f"__{name}__"] = _binary(op)
        found[f"__r{name}__"] = _reflected(op)
        if both_ways:
            found[f"__i{name}__"] = _in_place(op)
    for name, op in COMPARE.items():
        found[f"__{name}__"] = _binary(op)
    for name, op in UNARY.items():
        found[f"__{name}__"] = _unary(op)
    found["__pow__"], found["__rpow__"] = _power, _reflected_power
    if both_ways:
        found["__ipow__"] = _in_place_power
    return found


def methods() -> dict[str, Callable[..., Any]]:
    """The methods of `mx.array` that compute or reshape."""
    found = {name: _method(f"mx.{name}") for name in METHODS}
    return {**found, **{name: _view_method(f"mx.{name}") for name in VIEW_METHODS}}
