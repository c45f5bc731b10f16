"""Plain arrays beside recorded values: on the left, in numpy, and as what is written."""

from __future__ import annotations

import operator

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import MLXGraphError, OperationError, PlainArrayError
from tests import models

OPERATORS = ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul"]
BITS = ["iand", "ior", "ixor", "ilshift", "irshift"]


def refused(action):
    with pytest.raises(PlainArrayError, match=r"test_plain_arrays\.py") as caught:
        action()
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, MLXGraphError)
    return str(caught.value)


@pytest.mark.parametrize("name", OPERATORS + BITS)
@pytest.mark.parametrize("kind", ["mlx", "numpy"])
def test_an_array_on_the_left_stays_as_it_is(chain, x, name, kind):
    whole = name in BITS
    total = mx.full((6, 6), 3, mx.int32 if whole else mx.float32)
    total = total if kind == "mlx" else np.array(total)
    also = total
    with chain.trace(x):
        h = chain.layers[0].output[0, :1].astype(mx.int32 if whole else mx.float32)
        h = mx.broadcast_to(h, (6, 6))
        symbol = {"iadd": "+", "imatmul": "@", "ipow": "**", "ior": "|"}.get(name, "=")
        assert symbol in refused(lambda: getattr(operator, name)(total, h))
        chain.output.save()
    assert also is total and np.array_equal(np.array(total), np.full((6, 6), 3))
    before = np.array(total)
    total = getattr(operator, name)(total, total * 0 + 1)  # and goes on as ever
    assert np.array_equal(np.array(total), getattr(operator, name)(before, before * 0 + 1))


def test_total_plus_h_is_recorded(chain, x):
    totals = [mx.ones((2, 4, 6)), np.ones((2, 4, 6), np.float32)]
    with chain.trace(x):
        h = chain.layers[0].output
        found = [(total + h).save() for total in totals]
        found += [(total - h).save() for total in totals]
        less = (totals[1] < h).save()
        plain = h.save()
    for k, sum_or_difference in enumerate(found):
        assert models.same(sum_or_difference, 1 + plain if k < 2 else 1 - plain)
    assert models.same(less, 1 < plain)


@pytest.mark.parametrize(
    "write",
    [
        lambda b, h: b.__setitem__(0, h[0]),
        lambda b, h: b.__setitem__((0, slice(2)), h[0, :2]),
        lambda b, h: b.__setitem__(..., h),
        lambda b, h: b.__setitem__(h[0, 0].astype(mx.int32) * 0, 1.0),
        lambda b, h: b.__setitem__((0, h[0, 0].astype(mx.int32) * 0), 1.0),
        lambda b, h: b.__setitem__(0, h.sum()),
    ],
)
def test_a_buffer_of_ones_own_stays_as_it_is(chain, x, write):
    buffer = mx.zeros((2, 4, 6))
    with chain.trace(x):
        h = chain.layers[0].output
        assert "mx.stack" in refused(lambda: write(buffer, h))
        chain.output.save()
    assert mx.array_equal(buffer, mx.zeros((2, 4, 6)))
    buffer[0] = 2
    buffer[(1, slice(2))] = mx.ones((2, 6))
    assert buffer.sum().item() == 2 * 24 + 12


SLICES = {
    "written": lambda a, k: a.__setitem__(slice(0, k), 1),
    "written beside": lambda a, k: a.__setitem__((slice(None), slice(k, None)), 1),
    "stepped": lambda a, k: a.__setitem__((0, slice(None, None, k)), 1),
    "read": lambda a, k: a[0:k],
    "read beside": lambda a, k: a[..., 0:k],
}


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_with_a_recorded_bound_is_refused(chain, x, name):
    plain = mx.zeros((6, 6))
    with chain.trace(x):
        k = chain.layers[0].output[0, 0].argmax()
        refused(lambda: SLICES[name](plain, k))
        chain.output.save()
    assert not plain.any()
    plain[0:2] = 1
    assert plain.sum().item() == 12


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "maximum", "minimum"])
def test_a_changed_copy_of_a_plain_array_is_recorded(chain, x, name, compile):
    plain = mx.full((6, 6), 2.0)
    h = chain.module.layers[0](x)[0, 0]
    row, which = getattr(plain.at[1], name)(h), getattr(plain.at[h.argmax()], name)(3.0)
    column = getattr(plain.at[:, 2], name)(h)
    with chain.trace(x, compile=compile):
        h = chain.layers[0].output[0, 0]
        outs = [
            getattr(plain.at[1], name)(h).save(),
            getattr(plain.at[h.argmax()], name)(3.0).save(),
            getattr(plain.at[:, 2], name)(h).save(),
        ]
        own = getattr(plain.at[1], name)(3.0)  # nothing recorded takes part
        assert type(own) is type(plain)
    for out, want in zip(outs, (row, which, column), strict=True):
        assert models.same(out, want, 1e-5)
    assert mx.array_equal(plain, mx.full((6, 6), 2.0))
    assert type(plain.at) is type(mx.zeros(2).at) and plain.at[0].add(1.0)[0, 0].item() == 3.0


def test_what_the_errors_say_to_write_works(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        buffer = mx.zeros_like(h)
        buffer[:, 1:] = h[:, 1:]
        buffer += h
        copy = mx.array(h)
        copy[0] = 0
        changed = h.at[0].add(h[1]).save()
        buffer, copy, stacked, plain = buffer.save(), copy.save(), mx.stack([h, h]).save(), h.save()
    assert models.same(buffer[:, 1:], 2 * plain[:, 1:]) and models.same(buffer[:, 0], plain[:, 0])
    assert not mx.any(copy[0]) and models.same(copy[1], plain[1]) and stacked.shape[0] == 2
    assert models.same(changed[0], plain[0] + plain[1])


def test_a_saved_value_of_an_earlier_block_is_a_plain_array(chain, x):
    with chain.trace(x):
        total = chain.output.save()
    before = mx.array(total)
    with chain.trace(x):
        refused(lambda: operator.iadd(total, chain.output))
    assert models.same(mx.array(total), before)
    total += 1
    assert models.same(mx.array(total), before + 1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda h: np.abs(h), "mx.abs"),
        (lambda h: np.exp(h), "mx.exp"),
        (lambda h: np.maximum(np.ones(6), h), "mx.maximum"),
        (lambda h: np.sign(h), "mx.sign"),
        (lambda h: np.cbrt(h), "mg.apply"),
        (lambda h: np.add.reduce(h), "mx.add"),
        (lambda h: h[:, h[0, 0, 0].astype(mx.int32) :], "int(k)"),
        (lambda h: h[: mx.array(2)], "int(k)"),
        (lambda h: h.__setitem__((0, slice(None, mx.array(2))), 0), "int(k)"),
    ],
)
def test_numbers_that_are_needed_are_asked_for_on_the_users_line(chain, x, call, said):
    with chain.trace(x):
        assert said in refused(lambda: call(chain.layers[0].output))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda h: h.mean(dim=-1), "axis="),
        (lambda h: mx.softmax(h, dim=-1), "axis="),
        (lambda h: h.max(axis=1, keepdim=True), "keepdims="),
        (lambda h: mx.concatenate([h, h], dim=0), "axis="),
        (lambda h: h.sum(dim=1, keepdim=True), "axis= in place of dim= and keepdims="),
    ],
)
def test_names_from_elsewhere_are_said_in_mlxs_words(chain, x, call, said):
    with chain.trace(x):
        with pytest.raises(OperationError, match=r"test_plain_arrays\.py") as caught:
            call(chain.layers[0].output)
    assert said in str(caught.value)


WRITES = {
    "a row of one": lambda h: h.__setitem__((0, 0), mx.arange(6.0)[None]),
    "more axes of one": lambda h: h.__setitem__(1, mx.ones((1, 1, 4, 6))),
    "one number in axes": lambda h: h.__setitem__((0, 1, 2), mx.array([[5.0]])),
    "none": lambda h: h.__setitem__(None, 0.0),
    "none twice": lambda h: h.__setitem__((None, None), 2.0),
    "none and a row": lambda h: h.__setitem__((None, 1), 3.0),
    "none and a slice": lambda h: h.__setitem__((None, slice(1), slice(2)), 3.0),
    "complex": lambda h: h.__setitem__(0, 2 + 1j),
    "complex everywhere": lambda h: h.__setitem__(..., np.complex64(1j)),
    "whole": lambda h: h.__setitem__(slice(None), mx.ones((1, 2, 4, 6))),
}


class Squeezing:
    """An array into which some versions of MLX write no further axes of one."""

    def __init__(self, array):
        self.array = array

    def __setitem__(self, index, value):
        part = self.array if index is None or index == (None, None) else self.array[index]
        if isinstance(value, mx.array):
            value = value.reshape(value.shape[max(0, value.ndim - part.ndim) :])
        self.array[index] = value


@pytest.mark.parametrize("case", WRITES)
def test_what_mlx_writes_we_write(chain, x, case):
    with chain.trace(x):
        before = mx.array(chain.layers[0].output).save()
        WRITES[case](chain.layers[0].output)
        after = chain.layers[0].output.save()
    wanted = mx.array(before)
    WRITES[case](Squeezing(wanted))
    assert models.same(after, wanted) and not models.same(after, before)


def test_a_part_read_through_a_new_axis_writes_through(chain, x):
    with chain.trace(x):
        chain.layers[0].output[None][0, 1] = 4.0
        chain.layers[0].output[None, 0] += 1
        after = chain.layers[0].output.save()
    with chain.trace(x):
        before = chain.layers[0].output.save()
    assert mx.all(after[1] == 4) and models.same(after[0], before[0] + 1)


def test_a_whole_output_is_not_written_with_more_axes(chain, x):
    with pytest.raises(mg.errors.ShapeError), chain.trace(x):
        chain.layers[0].output = mx.ones((1, 2, 4, 6))
