"""Habits from numpy and PyTorch on a recorded value: refused in the words of MLX."""

from __future__ import annotations

import traceback

import mlx.core as mx
import numpy as np
import pytest

from mlxgraph.errors import BoundsError, OperationError, PlainArrayError, ShapeError

OF_NUMPY = {
    "mean": lambda h: np.mean(h, axis=-1),
    "sum": lambda h: np.sum(h),
    "max": lambda h: np.max(h, axis=0),
    "std": lambda h: np.std(h),
    "prod": lambda h: np.prod(h),
    "abs": np.abs,
}


@pytest.mark.parametrize("name", OF_NUMPY)
def test_a_function_of_numpy_blames_no_keyword_that_nobody_wrote(tiny, name):
    with pytest.raises(
        PlainArrayError, match=rf"np\.\w+ needs.*\n.*\n.*Write `mx.{name}`"
    ) as caught:
        with tiny.trace([1, 2]):
            OF_NUMPY[name](tiny.layers[2].output)
    assert "dtype=" not in str(caught.value) and "out=" not in str(caught.value)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


def test_keywords_that_the_user_wrote_are_answered_as_ever(tiny):
    with tiny.trace([1, 2]), pytest.raises(OperationError, match="axis= in place of dim="):
        tiny.layers[2].output.mean(dim=-1)


METHODS = {
    "softmax": "mx.softmax",
    "dim": "h.ndim",
    "topk": "mx.topk",
    "device": "one memory",
    "requires_grad_": "backward",
    "masked_fill": "mx.where",
    "zero_": r"h\[:\] = 0",
    "clone": "mx.array",
    "add_": r"h \+= value",
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_pytorch_is_answered(tiny, name):
    with pytest.raises(AttributeError) as caught, tiny.trace([1, 2]):
        getattr(tiny.layers[2].output, name)
    (note,) = caught.value.__notes__
    assert note.startswith("Write `") and METHODS[name].replace("\\", "") in note


def test_a_view_of_pytorch_is_a_reshape(tiny):
    with tiny.trace([1, 2]), pytest.raises(OperationError, match=r"Write h.reshape\(2, 128\)"):
        tiny.layers[2].output.view(2, 128)


INDICES = {
    "booleans": (lambda h: h[h > 0], "mx.where"),
    "plain booleans": (lambda h: h[mx.array([True])], "mx.where"),
    "in a tuple": (lambda h: h[0, h[0] > 0], "mx.where"),
    "a text": (lambda h: h["a"], "'a' is no index"),
    "a fraction": (lambda h: h[1.5], "1.5 is no index"),
    "an array of fractions": (lambda h: h[mx.array([1.0])], "astype"),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_of_a_wrong_kind_says_what_is_one(tiny, name):
    use, said = INDICES[name]
    with tiny.trace([1, 2]), pytest.raises((OperationError, ShapeError), match=said) as caught:
        use(tiny.layers[2].output)
    assert "test_other_arrays.py" in str(caught.value)


@pytest.mark.parametrize("index", [(0, 0, 0, 0), (0, 0, 0, 5), (..., 0, 0, 0, 0, 1)])
def test_an_index_of_too_many_parts_says_how_many_axes_there_are(tiny, index):
    with tiny.trace([1, 2]), pytest.raises(BoundsError, match="has 3 axes") as caught:
        tiny.layers[2].output[index]
    assert "empty" not in str(caught.value)
    with tiny.trace([1, 2]), pytest.raises(BoundsError, match="one axis"):
        tiny.layers[2].output[0, 0][0, 0] = 1
