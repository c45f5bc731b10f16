"""R9: shapes that do not fit and indices out of bounds raise at the user's line."""

from __future__ import annotations

import re

import mlx.core as mx
import numpy as np
import pytest

from mlxgraph.errors import (
    BoundsError,
    MLXGraphError,
    ShapeError,
)

FILE = "test_fit.py"


def said_at(error, function) -> str:
    """The message, checked to name the line on which a function was written."""
    text = str(error.value)
    number = function.__code__.co_firstlineno
    assert re.search(rf"{FILE}:{number}\b", text), f"line {number}:\n{text}"
    return text


# What is done, and the shapes that the message has to name.
MISSHAPEN = {
    "operation": (lambda m: m.layers[0].output + mx.ones((5,)), "(2, 4, 6)", "(5,)"),
    "reflected": (lambda m: mx.ones((5,)) + m.layers[0].output, "(2, 4, 6)", "(5,)"),
    "product": (lambda m: m.layers[0].output @ mx.ones((5, 2)), "(2, 4, 6)", "(5, 2)"),
    "function": (
        lambda m: mx.concatenate([m.layers[0].output, mx.ones((2, 4))]), "(2, 4, 6)", "(2, 4)"
    ),
    "reshape": (lambda m: m.layers[0].output.reshape(7, 7), "(2, 4, 6)", "(7, 7)"),
    "replace": (
        lambda m: setattr(m.layers[0], "output", mx.ones((2, 4, 5))), "(2, 4, 6)", "(2, 4, 5)"
    ),
    "replace too big": (
        lambda m: setattr(m.layers[0], "output", mx.ones((3, 2, 4, 6))), "(2, 4, 6)", "(3, 2, 4, 6)"
    ),
    "item": (
        lambda m: m.layers[0].output.__setitem__((slice(None), -1), mx.ones((5,))), "(2, 6)", "(5,)"
    ),
    "augmented": (lambda m: m.layers[0].output.__iadd__(mx.ones((5,))), "(2, 4, 6)", "(5,)"),
    "module": (lambda m: m.layers[1](mx.ones((2, 5)) + m.layers[0].output.sum()), "(2, 5)"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSHAPEN)
def test_a_shape_that_does_not_fit_raises_at_the_users_line(chain, x, name):
    wrong, *shapes = MISSHAPEN[name]
    with chain.trace(x), pytest.raises(MLXGraphError) as caught:
        wrong(chain)
    text = said_at(caught, wrong)
    assert all(shape in text for shape in shapes), text
    assert isinstance(caught.value, ValueError)


def test_a_shape_error_shows_both_shapes(chain, x):
    with chain.trace(x), pytest.raises(ShapeError) as caught:
        chain.layers[0].output[:, -1] = mx.ones((2, 5))
    assert "is (2, 6) and cannot be written with (2, 5)" in str(caught.value)
    assert "broadcasts" in str(caught.value)


OUT_OF_BOUNDS = {
    "read": lambda h: h[2],
    "read negative": lambda h: h[-3],
    "read axis 1": lambda h: h[:, 4],
    "read after ellipsis": lambda h: h[..., 6],
    "read new axis": lambda h: h[None, 2],
    "write": lambda h: h.__setitem__((0, 9), 1.0),
    "list": lambda h: h[:, [0, 4]],
    "tuple of lists": lambda h: h[[0, 1], [0, 5]],
    "too many": lambda h: h[0, 0, 0, 0],
    "numpy int": lambda h: h[np.int64(5)],
    "numpy array": lambda h: h[:, np.array([0, -5])],
    "on a view": lambda h: h[:, 1:3][:, 2],
    "at": lambda h: h.at[5].add(1.0),
}


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_a_static_index_out_of_bounds_raises_at_the_users_line(chain, x, name):
    with chain.trace(x), pytest.raises(IndexError) as caught:
        OUT_OF_BOUNDS[name](chain.layers[0].output)
    text = said_at(caught, OUT_OF_BOUNDS[name])
    assert isinstance(caught.value, BoundsError)
    assert ("has a part for axis 3" if name == "too many" else "out of bounds") in text
    assert ("(2, 2, 6)" if name == "on a view" else "(2, 4, 6)") in text


@pytest.mark.parametrize(
    "index",
    [
        (..., 5), (..., 3, 5), (1, ..., 5), (0, 3, ...), (None, 1, 3, 5), (..., None, 5),
        (-2, -4, -6),
        (slice(None), [0, 3]), (slice(None), np.array([3, -4])), ([1, 0], [3, -4]), ..., (),
    ],
    ids=str,
)  # fmt: skip
def test_a_static_index_within_bounds_means_what_it_means_in_numpy(chain, x, index):
    plain = np.array(chain.module.layers[0](x))
    with chain.trace(x):
        part = chain.layers[0].output[index].save()
    assert np.array_equal(np.array(part), plain[index])


def test_slices_are_cut_at_the_ends_as_in_python(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        assert h[:, 2:99].shape == (2, 2, 6)
        assert h[:, -99:1].shape == (2, 1, 6)
        assert h[:, 5:].shape == (2, 0, 6)
