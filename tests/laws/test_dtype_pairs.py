"""A value of every dtype beside an operand of every other: eager, compiled and plain MLX agree.

The operand is a Python number, an array, another recorded value or a param.  Every operation on the
pair gives plain MLX's dtype and bits, run in either way, or raises where plain MLX raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from tests import models

DTYPES = [mx.bool_, mx.uint8, mx.int8, mx.int32, mx.int64, mx.uint32, mx.float16, mx.bfloat16,
          mx.float32, mx.complex64]  # fmt: skip
NUMBERS = [True, 2, -1, 300, 0.5, 2j]
VALUES = [[1, 2, 3], [7, 5, 1]]  # none is nought: whole numbers are divided by them
OPERANDS = [[2, 3, 1], [1, 4, 3]]
REFUSED = (ValueError, TypeError, RuntimeError, OverflowError)


class Inner(nn.Module):
    """The value as it comes."""

    def __call__(self, x: mx.array) -> mx.array:
        return x


class Outer(nn.Module):
    """A module around it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x)


def put(h: Any, b: Any) -> Any:
    h = mx.array(h)
    h[1] = b if type(b) in (bool, int, float, complex) or not b.ndim else b[0]
    return h


OPS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda h, b: h + b,
    "add, the other way round": lambda h, b: b + h,
    "subtract": lambda h, b: h - b,
    "subtract, the other way round": lambda h, b: b - h,
    "multiply": lambda h, b: h * b,
    "divide": lambda h, b: h / b,
    "divide, the other way round": lambda h, b: b / h,
    "floor": lambda h, b: h // b,
    "remainder": lambda h, b: h % b,
    "less": lambda h, b: h < b,
    "equal": lambda h, b: h == b,
    "maximum": lambda h, b: mx.maximum(h, b),
    "minimum, the other way round": lambda h, b: mx.minimum(b, h),
    "where": lambda h, b: mx.where(h == 1, h, b),
    "where, the other way round": lambda h, b: mx.where(h == 1, b, h),
    "where of itself": lambda h, b: mx.where(h, b, b),
    "and": lambda h, b: h & b,
    "shift": lambda h, b: h << b,
    "concatenate": lambda h, b: mx.concatenate([h, b]),
    "two steps": lambda h, b: (h + b) * b,
    "of a sum": lambda h, b: h.sum() + b,
    "write": put,
}


class Pair(NamedTuple):
    """The dtype of a site, and what it meets: a number, or another dtype in some form."""

    dtype: Any
    kind: str
    other: Any

    @property
    def x(self) -> mx.array:
        return mx.array(VALUES).astype(self.dtype)

    @property
    def operand(self) -> Any:
        """What plain MLX is given."""
        if "number" in self.kind:  # a number that is a param is a float to every dtype
            return self.other if self.kind == "number" else float(self.other)
        return mx.array(OPERANDS).astype(self.other)

    def recorded(self, h: Any) -> Any:
        """What the block is given."""
        if self.kind == "proxy":
            return mx.array(OPERANDS).astype(self.other) + (h != h).astype(mx.bool_)
        if self.kind == "param":
            return mg.param("p", shape=(2, 3), dtype=str(self.other).removeprefix("mlx.core."))
        return mg.param("p") if "param" in self.kind else self.operand

    @property
    def params(self) -> dict[str, Any]:
        return {"p": self.operand} if self.kind.startswith("param") else {}


KINDS = ["number", "param of a number", "array", "param", "proxy"]


def fits(dtype: Any, number: Any) -> bool:
    """A number that a dtype cannot hold is refused on its line: a rule of our own."""
    if not mx.issubdtype(dtype, mx.integer) or type(number) is not int:
        return True
    return mx.iinfo(dtype).min <= number <= mx.iinfo(dtype).max


PAIRS = [
    Pair(dtype, kind, other)
    for dtype in DTYPES
    for kind in KINDS
    for other in (NUMBERS if "number" in kind else DTYPES)
    if kind != "number" or fits(dtype, other)
    if kind != "param of a number" or type(other) is not complex  # which is refused
]
MODEL = mg.InterpretableModel(Outer())


def plainly(pair: Pair, ops: dict = OPS) -> dict[str, Any]:
    """What plain MLX gives for every operation; None where it raises."""
    found: dict[str, Any] = {}
    for name, op in ops.items():
        try:
            found[name] = op(pair.x, pair.operand)
            mx.eval(found[name])
        except REFUSED:
            found[name] = None
    return found


def recorded(pair: Pair, compile: bool, ops: dict = OPS) -> dict[str, Any]:
    """The same, from one block.  None where the line that says it raises."""
    found: dict[str, Any] = {}
    with MODEL.trace(pair.x, compile=compile, params=pair.params):
        for name, op in ops.items():
            try:
                h = MODEL.inner.output
                value = op(h, pair.recorded(h))
                found[name] = value.dtype, value.save()
            except REFUSED:
                found[name] = None
        MODEL.output.save()
    return found


def agree(pair: Pair, compile: bool, ops: dict = OPS, meaning: dict | None = None) -> Counter:
    """How many operations on a pair gave what they mean to MLX, and how many were refused."""
    expected, given = plainly(pair, meaning or ops), recorded(pair, compile, ops)
    seen: Counter = Counter()
    for name, value in expected.items():
        if value is None:
            assert given[name] is None, f"{name} of {pair} should raise"
        else:
            assert given[name] is not None, f"{name} of {pair} should give {value.dtype}"
            dtype, saved = given[name]
            assert dtype == value.dtype, f"{name} of {pair}: recorded as {dtype}"
            assert models.same(saved, value), f"{name} of {pair}:\n{saved}\nshould be\n{value}"
        seen["raised" if value is None else "given"] += 1
    return seen


def law(examples: int, compile: bool, count: int = len(OPS)) -> Counter:
    """Some pairs, and on each some of the operations."""
    seen: Counter = Counter()

    @settings(max_examples=examples)
    @given(st.sampled_from(PAIRS), st.permutations(sorted(OPS)))
    def run(pair, names):
        event(pair.kind)
        seen.update(agree(pair, compile, {name: OPS[name] for name in names[:count]}))

    run()
    return seen


def test_a_pair_of_dtypes_is_what_it_is_to_mlx():
    seen = law(50, False)
    assert seen["given"] > 400 and seen["raised"] > 20


@pytest.fixture
def untransformed():
    """`mx.compile` gives functions back as they are: what is left is how a pass is called."""
    for dtype in DTYPES:  # the census is taken by `mx.compile`
        MODEL.run(mg.read(""), mx.array(VALUES).astype(dtype))
    mx.disable_compile()
    yield
    mx.enable_compile()


def test_a_pair_of_dtypes_in_a_pass_called_as_a_compiled_one_is_the_same(untransformed):
    seen = law(50, True)
    assert seen["given"] > 400 and seen["raised"] > 20


def test_a_pair_of_dtypes_compiled_is_the_same():
    assert law(3, True, 2)["given"] > 2  # every operation is a kernel, and seconds


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_pair_of_dtypes_is_what_it_is_to_mlx(dtype, compile):
    pairs = [pair for pair in PAIRS if pair.dtype == dtype]
    seen: Counter = Counter()
    # compiled, each pair of each operation is a kernel, and a second of g++: one pair in all
    for pair in pairs[: 1 if compile else None]:
        seen.update(agree(pair, compile))
    assert seen["given"] > (5 if compile else 80)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("add", lambda h, b: h + mx.array(0.5)),  # an array where MLX has a number
        ("less", lambda h, b: h.astype(mx.float32) < 2.0),
    ],
)
def test_another_dtype_or_another_bit_is_noticed(name, wrong):
    pair = Pair(mx.float16, "number", 0.5)
    assert agree(pair, False)["given"] > 10
    with pytest.raises(AssertionError, match=name):
        agree(pair, False, meaning={**OPS, name: wrong})
