"""Distances between logits: right where they are easy, finite where they are hard."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from mlxgraph.analysis.metrics import METRICS, distances
from mlxgraph.errors import UnknownNameError


def reference(name, a, b):
    """The textbook formula in float64."""
    a, b = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)
    if name == "l2":
        return np.sqrt(((a - b) ** 2).sum())
    if name == "mse":
        return ((a - b) ** 2).mean()
    if name == "cosine":
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    p, q = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in (b, a))
    return (np.exp(p) * (p - q)).sum()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_they_are_the_textbook_formulas(name, scale):
    mx.random.seed(0)
    rows, wanted = mx.random.normal((3, 500)) * scale, mx.random.normal((500,)) * scale
    expected = [reference(name, row, wanted) for row in rows]
    assert distances(name, rows, wanted) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("largest", [10.0, 6e4, 1e30])
def test_they_are_finite_for_150_thousand_tokens(name, dtype, largest):
    if dtype == mx.float16 and largest > 6e4:
        largest = 6e4
    mx.random.seed(0)
    rows = (mx.random.uniform(-1, 1, (2, 151_936)) * largest).astype(dtype).astype(mx.float32)
    found = distances(name, rows, rows[0])
    assert found[0] == pytest.approx(0, abs=1e-6)
    # The square of 1e30 itself is beyond float32; every other distance can be stated.
    assert found[1] > 0 and math.isfinite(found[1]) != (name == "mse" and largest == 1e30)


@pytest.mark.parametrize("name", METRICS)
def test_tokens_masked_out_in_both_do_not_count(name):
    a, b = mx.array([[1.0, 2.0, -mx.inf]]), mx.array([2.0, 1.0, -mx.inf])
    found = distances(name, a, b)[0]
    assert math.isfinite(found) and found > 0


def test_a_small_angle_is_not_lost_to_cancellation():
    a = mx.array([[1.0, 0.0], [1.0, 1e-4]])
    assert distances("cosine", a, mx.array([1.0, 0.0])) == pytest.approx([0, 5e-9], rel=1e-3)


def test_a_function_of_two_vectors_is_a_metric():
    rows = mx.array([[1.0, 2.0], [4.0, 5.0]])
    found = distances(lambda a, b: mx.max(mx.abs(a - b)), rows, mx.array([1.0, 1.0]))
    assert found == [1.0, 4.0]


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="cosine"):
        distances("cosin", mx.ones((1, 2)), mx.ones((2,)))
