"""Operators and methods: what `h + 1`, `1 + h`, `h += 1` and `h.mean(-1)` record.

In: the table of operations.  Out: methods for a handle's class.
Each is an edge (`errors.tracebacks`), written out: it is called for every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxgraph.errors import MLXGraphError
from mlxgraph.errors.tracebacks import trim
from mlxgraph.graph import ops
from mlxgraph.record.freeze import freeze
from mlxgraph.record.handle import open_recording
from mlxgraph.record.view_functions import view_call


def _binary(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        try:
            recording = open_recording(self)
            return recording.result(op, (self._node, recording.operand(other)))
        except MLXGraphError as error:
            trim(error)
            raise

    return method


def _reflected(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        try:
            recording = open_recording(self)
            return recording.result(op, (recording.operand(other), self._node))
        except MLXGraphError as error:
            trim(error)
            raise

    return method


def _in_place(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        recording = open_recording(self)
        recording.augment(self, op, recording.operand(other))
        return self

    return method


def _unary(op: str) -> Callable[[Any], Any]:
    def method(self: Any) -> Any:
        try:
            return open_recording(self).result(op, (self._node,))
        except MLXGraphError as error:
            trim(error)
            raise

    return method


def _power(self: Any, other: Any) -> Any:
    """The exponent stays a constant: MLX treats small whole powers apart."""
    return open_recording(self).call(ops.MX_POWER, (self, other), {})


def _in_place_power(self: Any, other: Any) -> Any:
    recording = open_recording(self)
    recording.augment(self, ops.MX_POWER, freeze(other, recording))
    return self


def _method(op: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return open_recording(self).call(op, (self, *args), kwargs)
        except MLXGraphError as error:
            trim(error)
            raise

    return method


def _view_method(op: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return view_call(op, self, args, kwargs)
        except MLXGraphError as error:
            trim(error)
            raise

    return method


def operators(in_place: bool = True) -> dict[str, Callable[..., Any]]:
    """The arithmetic of a handle, by method name; with or without the in-place forms."""
    found: dict[str, Callable[..., Any]] = {}
    for name, op in ops.BINARY.items():
        found[f"__{name}__"] = _binary(op)
        found[f"__r{name}__"] = _reflected(op)
        if in_place:
            found[f"__i{name}__"] = _in_place(op)
    for name, op in ops.COMPARISONS.items():
        found[f"__{name}__"] = _binary(op)
    for name, op in ops.UNARY.items():
        found[f"__{name}__"] = _unary(op)
    found["__pow__"], found["__rpow__"] = _power, _reflected(ops.MX_POWER)
    if in_place:
        found["__ipow__"] = _in_place_power
    return found


def methods() -> dict[str, Callable[..., Any]]:
    """The methods of `mx.array` that compute or reshape."""
    return {
        name: _view_method(op) if op in ops.VIEWS else _method(op)
        for name, op in ops.METHODS.items()
    }
