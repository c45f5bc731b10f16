"""A function given as an intervention means the same where it is recorded and where it runs as it
is, or it is refused: a recorded view writes through, and one of MLX does not."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import InterventionError
from tests import models

X = mx.ones((2, 6))


@pytest.fixture(scope="module")
def model():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6)

        def __call__(self, x):
            return self.a(x)

    return mg.InterpretableModel(Net())


def of_a_part(h, look):
    v = h[0]
    look(h)
    v += 1
    return h


def of_a_part_before(h, look):
    v = h[0]
    v += 1
    look(h)
    return h


def of_a_reshape(h, look):
    look(h)
    v = h.reshape(-1)
    v[0] = 5.0
    return h


def nested(h, look):
    look(h)
    h[0][1] = 5.0
    return h


def nested_added(h, look):
    h[0][1] += 5.0
    look(h)
    return h * 2


def at_once(h, look):
    look(h)
    h[0] += 1
    h[:, 1] *= 2
    h[0, 2] = 7.0
    return h


def the_part_itself(h, look):
    v = h.reshape(-1)
    v *= 2
    v[3] = look(h)
    return v.reshape(h.shape)


def put_back(h, look):
    v = h[0]
    v += 1
    h[0] = v
    return h + 0 * look(h)


def put_together(h, look):
    v = h[0]
    v += look(h)
    return mx.stack([v, h[1]])


def looked(h):
    return float(np.array(h).sum()) * 0.0


DIFFER = [of_a_part, of_a_part_before, of_a_reshape, nested, nested_added]
AGREE = [at_once, the_part_itself, put_together]


@pytest.mark.parametrize("make", DIFFER)
def test_a_view_that_writes_through_only_when_recorded_is_refused(model, make):
    def fn(h):
        return make(h, looked)

    # the control: where nothing is looked at, it is recorded and a view writes through
    recorded = model.run(mg.edit("a", lambda h: make(h, lambda h: 0.0)), X).output
    assert not models.same(recorded, model(X), 1e-3)
    for _ in range(2):
        with pytest.raises(InterventionError, match=r"h\[0\] \+= 1"):
            model.run(mg.edit("a", fn), X)


@pytest.mark.parametrize("make", [*AGREE, put_back])
def test_one_that_means_the_same_both_ways_runs(model, make):
    expected = make(mx.array(model(X)), looked)
    recorded = model.run(mg.edit("a", lambda h: make(h, lambda h: 0.0)), X).output
    opaque = model.run(mg.edit("a", lambda h: make(h, looked)), X).output
    with model.trace(X, interventions={"a": lambda h: make(h, looked)}):
        seen = model.output.save()
    for one in (recorded, opaque, seen):
        assert models.same(one, expected, 1e-5)
