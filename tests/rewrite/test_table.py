"""What the table of operations claims is so in the MLX that is installed: rules rest on it."""

from __future__ import annotations

import operator

import mlx.core as mx
import pytest

from mlxgraph.evaluate.functions import function
from mlxgraph.graph import ops
from tests import models

A = mx.array([[0.5, -1.5, 2.0], [3.0, -0.0, 0.25]])
B = mx.array([[1.5, 0.5, -2.0], [3.0, 0.0, 4.0]])
KINDS = {
    "float32": (A, B),
    "float16": (A.astype(mx.float16), B.astype(mx.float16)),
    "int32": ((A * 2).astype(mx.int32), (B * 2).astype(mx.int32)),
    "uint8": (mx.abs(A * 2).astype(mx.uint8), mx.abs(B * 2).astype(mx.uint8)),
    "bool": (A > 0, B > 0),
}
INFIX = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "**": operator.pow, "@": operator.matmul,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
OTHERS = {  # arguments after the first, for operations that have no default for them
    ops.MX_RESHAPE: ((3, 2),),
    ops.MX_UNFLATTEN: (1, (3, 1)),
    ops.MX_EXPAND_DIMS: (0,),
    ops.MX_SWAPAXES: (0, 1),
    ops.MX_MOVEAXIS: (0, 1),
    ops.GETITEM: (0,),
    ops.UPDATE: (0, 1),
    ops.RESHAPE_LIKE: (A.reshape(3, 2),),
    ops.BROADCAST_LIKE: (mx.zeros((4, 2, 3)),),
    ops.ASTYPE_LIKE: (mx.zeros(1, mx.complex64),),
    ops.FULL_LIKE: (1,),
    ops.SPLIT_PART: (2, 0, 1),
    ops.MX_ASTYPE: (mx.complex64,),
}


REFUSED = (ValueError, TypeError, RuntimeError)  # what MLX says to arrays of another dtype


def results(name: str, *others):
    """`(first argument, result)` for every kind of array that the operation takes."""
    found = []
    for array, _ in KINDS.values():
        try:
            result = function(name)(array, *others)
            mx.eval(result)
        except REFUSED:
            continue
        found.append((array, result))
    assert found, name
    return found


@pytest.mark.parametrize("name", sorted(ops.KEEPS_SHAPE))
def test_what_keeps_the_shape_does(name):
    assert all(a.shape == out.shape for a, out in results(name, *OTHERS.get(name, ())))


@pytest.mark.parametrize("name", sorted(ops.KEEPS_DTYPE))
def test_what_keeps_the_dtype_does(name):
    assert all(a.dtype == out.dtype for a, out in results(name, *OTHERS.get(name, ())))


@pytest.mark.parametrize("name", sorted(ops.RESHAPES))
def test_what_reshapes_keeps_every_entry_in_order(name):
    for array, out in results(name, *OTHERS.get(name, ())):
        assert models.same(array.reshape(-1), out.reshape(-1))


def two(name: str) -> bool:
    operation = ops.OPERATIONS[name]
    return operation.fewest == operation.most == 2


@pytest.mark.parametrize("name", sorted(filter(two, ops.ELEMENTWISE)))
def test_elementwise_of_an_array_and_a_number_is_shaped_as_the_array(name):
    number = True if "logical" in name or "bitwise" in name or "array" in name else 2
    assert all(a.shape == out.shape for a, out in results(name, number))
    assert all(a.shape == out.shape for a, out in results(name, mx.array(number)))


@pytest.mark.parametrize("name", sorted(ops.ELEMENTWISE))
def test_elementwise_works_entry_by_entry(name):
    for a, b in KINDS.values():
        call = function(name)
        count = max(ops.OPERATIONS[name].fewest, 1)
        arrays = [a > 0, a, b] if name == ops.MX_WHERE else [a, b][:count]
        try:
            whole = call(*arrays)
        except REFUSED:
            continue
        for k in range(a.shape[1]):
            assert models.same(whole[:, k], call(*[array[:, k] for array in arrays]), 1e-6)


@pytest.mark.parametrize("name", sorted(ops.COMMUTES))
def test_what_commutes_is_the_same_to_the_last_bit(name):
    worked = 0
    for a, b in KINDS.values():
        try:
            one, other = function(name)(a, b), function(name)(b, a)
        except REFUSED:
            continue
        worked += 1
        assert one.dtype == other.dtype and bits(one) == bits(other)
    assert worked


def bits(array: mx.array) -> bytes:
    return bytes(memoryview(array.view(mx.uint8)))


def test_what_does_not_commute_is_seen_to():
    """The control: bits tell mx.maximum's zeros apart, which is why it is not claimed to."""
    zeros = mx.array([0.0]), mx.array([-0.0])
    assert bits(mx.maximum(*zeros)) != bits(mx.maximum(*zeros[::-1]))
    assert ops.MX_MAXIMUM not in ops.COMMUTES


@pytest.mark.parametrize("name", sorted(ops.SYMBOLS))
def test_a_symbol_is_what_python_writes_for_it(name):
    other = B.T if name == ops.MX_MATMUL else B
    assert models.same(INFIX[ops.SYMBOLS[name]](A, other), function(name)(A, other))


@pytest.mark.parametrize(("python", "name"), sorted({**ops.BINARY, **ops.COMPARISONS}.items()))
def test_a_binary_operator_is_the_operation(python, name):
    a, b = KINDS["int32"] if "shift" in name or "array" in name else KINDS["float32"]
    a, b = (a, b.T) if name == ops.MX_MATMUL else (a, mx.abs(b))
    method = getattr(mx.array, f"__{python}__")
    assert models.same(method(a, b), function(name)(a, b))


@pytest.mark.parametrize(("method", "name"), sorted(ops.METHODS.items()))
def test_a_method_of_arrays_has_the_functions_name(method, name):
    assert hasattr(mx.array, method) and hasattr(mx, method)
