"""Operators and methods: what `h + 1`, `1 + h`, `h += 1` and `h.mean(-1)` record.

In: the table of operations.  Out: methods for a handle's class.
Each is an edge (`errors.tracebacks`), written out: it is called for every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxgraph.errors import MLXGraphError, OperationError, PlainArrayError
from mlxgraph.errors.source_line import asked_by, here
from mlxgraph.errors.tracebacks import at_the_edge, trim
from mlxgraph.graph import ops
from mlxgraph.record.conform import ANY_DTYPE, check_number
from mlxgraph.record.freeze import freeze
from mlxgraph.record.handle import open_recording
from mlxgraph.record.view_functions import view_call


def _binary(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        try:
            recording = open_recording(self)
            if type(other) is int and other not in ANY_DTYPE:
                check_number(op, other, self)
            return recording.result(op, (self._node, recording.operand(other)))
        except MLXGraphError as error:
            trim(error)
            raise

    return method


def _reflected(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        try:
            recording = open_recording(self)
            if type(other) is int and other not in ANY_DTYPE:
                check_number(op, other, self)
            return recording.result(op, (recording.operand(other), self._node))
        except MLXGraphError as error:
            trim(error)
            raise

    return method


def _in_place(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        try:
            recording = open_recording(self)
            if type(other) is int and other not in ANY_DTYPE:
                check_number(op, other, self)
            recording.augment(self, op, recording.operand(other))
        except MLXGraphError as error:
            trim(error)
            raise
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


@at_the_edge
def _power(self: Any, other: Any) -> Any:
    """The exponent stays a constant: MLX treats small whole powers apart."""
    return open_recording(self).call(ops.MX_POWER, (self, other), {})


@at_the_edge
def _in_place_power(self: Any, other: Any) -> Any:
    recording = open_recording(self)
    recording.augment(self, ops.MX_POWER, freeze(other, recording))
    return self


def _method(op: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return open_recording(self).call(op, (self, *args), kwargs)
        except MLXGraphError as error:
            if isinstance(error, OperationError) and asked_by("numpy"):
                raise _of_numpy(op.removeprefix("mx.")) from None
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
        except TypeError:
            if asked_by("numpy"):  # `order=`, and others that MLX does not know
                raise _of_numpy(op.removeprefix("mx.")) from None
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


SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%",
    "matmul": "@", "pow": "**", "and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>",
}  # fmt: skip
_FROM_NUMPY = {  # numpy's name -> Python's, for what is told apart by name there
    "subtract": "sub", "multiply": "mul", "divide": "truediv", "true_divide": "truediv",
    "floor_divide": "floordiv", "remainder": "mod", "power": "pow", "add": "add",
    "matmul": "matmul", "left_shift": "lshift", "right_shift": "rshift", "bitwise_and": "and",
    "bitwise_or": "or", "bitwise_xor": "xor",
}  # fmt: skip
_MIRRORED = {
    "less": "gt", "less_equal": "ge", "greater": "lt", "greater_equal": "le", "equal": "eq",
    "not_equal": "ne",
}  # fmt: skip


def from_numpy(self: Any, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """What numpy asks of a handle: `array + h` is recorded, `array += h` raises."""
    open_recording(self)
    name = ufunc.__name__
    python = _FROM_NUMPY.get(name) or _MIRRORED.get(name)
    if kwargs.get("out") is not None:
        sign = SIGNS.get(python or "", "+")
        raise PlainArrayError(
            f"`{sign}=` on a numpy array would take the numbers of a recorded value",
            str(here()),
            f"Write `total = total {sign} h` in place of `total {sign}= h`.  The array is as it"
            " was.",
        )
    if python and method == "__call__" and len(inputs) == 2 and not kwargs:
        left, right = inputs
        if left is self:
            own = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}.get(python, python)
            return getattr(self, f"__{own}__")(right)
        mirrored = python if name in _MIRRORED else f"r{python}"
        return getattr(right, f"__{mirrored}__")(left)
    raise _of_numpy(name)


def _of_numpy(name: str) -> PlainArrayError:
    """What to say of a function of numpy's that was given a recorded value."""
    of_mlx = _IN_MLX.get(name, name)
    known = f"mx.{of_mlx}" in ops.OPERATIONS
    return PlainArrayError(
        f"np.{name} needs numbers",
        str(here()),
        f"Write `mx.{of_mlx}`, which is recorded."
        if known
        else "Write `mg.apply(fn, h)`, which calls a function of numpy when the model runs; or save"
        " the value and use it after the block.",
    )


_IN_MLX = {
    "absolute": "abs",
    "conjugate": "conj",
    "true_divide": "divide",
    "invert": "bitwise_invert",
}
