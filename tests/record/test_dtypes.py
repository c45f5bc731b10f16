"""The dtype of a recorded value is the one that MLX gives, run in either way."""

from __future__ import annotations

import itertools

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import OperationError


class Inner(nn.Module):
    """The value as it comes."""

    def __call__(self, x):
        return x


class Outer(nn.Module):
    """A module around it."""

    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def __call__(self, x):
        return self.inner(x)


MODEL = mg.InterpretableModel(Outer())
DTYPES = (mx.bool_, mx.uint8, mx.int32, mx.float16)
NUMBERS = (True, 300, -1, 0.5)


def ways(function, x, **params):
    """What a function of the inner module's value gives: recorded, eager, compiled, compiled."""
    results = []
    for compile in (False, True):
        with MODEL.trace(x, compile=compile, params=params):
            recorded = function(MODEL.inner.output)
            dtype = recorded.dtype
            saved = recorded.save()
        results.append((dtype, saved.dtype, saved.tolist()))
    return results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "function",
    [
        lambda h, n: h + n,
        lambda h, n: h * n,
        lambda h, n: h < n,
        lambda h, n: mx.where(h, h, n),
        lambda h, n: mx.where(h, n, h),
        lambda h, n: mx.where(h, n, n),
        lambda h, n: mx.minimum(n, h),
    ],
)
def test_a_number_beside_an_array_is_what_it_is_to_mlx(dtype, function):
    x = mx.array([[0, 1, 3]]).astype(dtype)
    for number in NUMBERS:
        try:
            expected = function(x, number)
            mx.eval(expected)
        except (ValueError, RuntimeError):
            expected = None
        if expected is None:
            with pytest.raises((ValueError, TypeError)) as caught:
                ways(lambda h, n=number: function(h, n), x)
            assert "test_dtypes.py" in str(caught.value)
            continue
        for recorded, dtype_now, values in ways(lambda h, n=number: function(h, n), x):
            assert recorded == dtype_now == expected.dtype, (number, dtype_now)
            assert repr(values) == repr(expected.tolist()), number


ALPHA = mg.param("alpha")
OF_NUMBERS = {
    "1 - a": lambda h, a: h * (1 - a),
    "a / 2 + 1": lambda h, a: h * (a / 2 + 1),
    "-a": lambda h, a: h + -a,
    "a * a": lambda h, a: h - a * a,
    "a ** 2": lambda h, a: h * a**2,
    "both sides": lambda h, a: (1 - a) * h + a * h,
    "in where": lambda h, a: mx.where(h > 0, h, 1 - a),
    "in place": lambda h, a: h.__imul__(1 - a),
}


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("name", OF_NUMBERS)
def test_what_python_makes_of_a_param_alone_is_a_number_too(name, dtype):
    """`1 - alpha` takes the dtype of what it meets, as it does where alpha is a float."""
    x = mx.array([[0.5, 1.0, 3.0]]).astype(dtype)
    expected = OF_NUMBERS[name](mx.array(x), 0.25)
    for recorded, dtype_now, values in ways(lambda h: OF_NUMBERS[name](h, ALPHA), x, alpha=0.25):
        assert recorded == dtype_now == expected.dtype == dtype
        assert values == expected.tolist()


def test_functions_of_a_param_give_arrays_as_they_do_of_a_float():
    x = mx.array([[0.5, 1.0]], mx.float16)
    for _, dtype, _ in ways(lambda h: h * mx.exp(ALPHA), x, alpha=0.25):
        assert dtype == (x * mx.exp(0.25)).dtype == mx.float32


def add(k, other):
    k += other
    return k


def part(k, other):
    k[0, 1] += other
    return k


def times(k, other):
    k *= other
    return k


OTHER_KINDS = pytest.mark.parametrize(
    ("start", "other"),
    [
        (lambda h: h.argmax(-1, keepdims=True) + mx.zeros((1, 3), mx.uint32), 0.5),
        (lambda h: h.astype(mx.int32), 0.5),
        (lambda h: h.astype(mx.int32), mx.array(0.5)),
        (lambda h: h > 0, 2),
        (lambda h: h > 0, 0.5),
        (lambda h: h.astype(mx.uint8), mx.array([1000])),
        (lambda h: h.astype(mx.complex64).real.astype(mx.int8), 1.0),
    ],
)
X = mx.array([[1.0, 2.0, 0.0]])


@OTHER_KINDS
@pytest.mark.parametrize("way", [add, times])
def test_in_place_arithmetic_makes_an_array_what_mlx_makes_it(way, start, other):
    expected = way(start(X), other)
    for _, now, values in ways(lambda h: way(start(h), other), X):
        assert (now, values) == (expected.dtype, expected.tolist())
    with MODEL.trace(X):
        k = also = start(MODEL.inner.output)
        kept = k.save()
        k += other
        more = (also + 1).save()
    assert kept.dtype == start(X).dtype and kept.tolist() == start(X).tolist()
    assert more.tolist() == (add(start(X), other) + 1).tolist()


@OTHER_KINDS
def test_a_part_of_an_array_keeps_the_kind_of_the_array(start, other):
    """It would add nothing, and so it is refused."""
    with MODEL.trace(X) as t:
        k = start(MODEL.inner.output)
        with pytest.raises(OperationError, match=r"test_dtypes.py:\d+"):
            part(k, other)
        t.stop()


def test_in_place_arithmetic_of_one_kind_goes_on():
    x = mx.array([[1.0, 2.0, 0.0]], mx.float16)
    for dtype, other in itertools.product(
        (mx.float16, mx.float32, mx.int32), (1, mx.array(2, mx.int32))
    ):
        expected = add(x.astype(dtype), other)
        for _, now, values in ways(lambda h, o=other, d=dtype: add(h.astype(d), o), x):
            assert (now, values) == (expected.dtype, expected.tolist())
    with MODEL.trace(x):  # a site keeps its precision
        h = MODEL.inner.output
        h += mx.array([0.5])
        out = MODEL.output.save()
    assert out.dtype == mx.float16 and out.tolist() == [[1.5, 2.5, 0.5]]


@pytest.mark.parametrize(
    "write",
    [
        lambda h: h.__setitem__(slice(None), 300),
        lambda h: h.__setitem__((0, 1), -1),
        lambda h: h.__setitem__(h > 1, 300),
        lambda h: h.at[0, 1].add(300),
        lambda h: h.__iadd__(300),
        lambda h: h << 300,
        lambda h: h & 256,
        lambda h: mx.where(h > 1, 300, h),
    ],
)
def test_a_number_that_does_not_fit_is_refused_on_its_line(write):
    for compile in (False, True):
        with pytest.raises(OperationError, match="300|-1|256") as caught:
            with MODEL.trace(mx.array([[1, 2]], mx.uint8), compile=compile):
                write(MODEL.inner.output)
        assert "test_dtypes.py" in str(caught.value) and "uint8" in str(caught.value)
