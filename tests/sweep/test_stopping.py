"""A sweep that is interrupted keeps what is done, goes on from there, and leaves nothing."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError
from mlxgraph.run.grown import GrownRun
from mlxgraph.sweep import batch
from mlxgraph.sweep.schedule import Schedule
from tests.models import identity_of
from tests.sweep.alike import furthest, loop, off

X = mx.linspace(-1, 1, 24).reshape(1, 4, 6)
ROWS = mx.linspace(-2, 1, 48).reshape(2, 4, 6)
MANY = 3  # layers of `Breaking`


class Fuse:
    """What the layers of `Breaking` raise, and at which call of a forward; beside the model, whose
    settings do not change."""

    error: type[BaseException] | None = None
    left = 0


class Fused(nn.Module):
    """A layer that raises when its time has come, and from then on."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def __call__(self, x):
        if Fuse.error is not None:
            Fuse.left -= 1
            if Fuse.left <= 0:
                raise Fuse.error("told to")
        return self.linear(x)


class Breaking(nn.Module):
    """Layers, each of which may be made to raise."""

    def __init__(self):
        super().__init__()
        self.layers = [Fused() for _ in range(MANY)]

    def __call__(self, x):
        for layer in self.layers:
            x = mx.tanh(layer(x))
        return x

    @staticmethod
    def arm(error, on):
        """Let the `on`-th call from now raise, and all after it."""
        Fuse.error, Fuse.left = error, on


@pytest.fixture(autouse=True)
def disarmed():
    """Whatever a test arms."""
    yield
    Breaking.arm(None, 1)


@pytest.fixture
def model():
    mx.random.seed(5)
    module = Breaking()
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)


def graphs_of(model, x=X):
    graphs = []
    for k in range(MANY):
        for position in range(3):
            with model.trace(x) as t:
                model.layers[k].output[:, position] *= -2.0
                model.output[:, -1].save("l")
                model.output.save("all")
            graphs.append(t.graph)
    return graphs


def test_an_interrupt_in_any_call_of_any_forward_keeps_what_is_done(model, monkeypatch):
    answer, left = GrownRun.answer, [math.inf]

    def counted(self, *given):
        left[0] -= 1
        if left[0] <= 0:
            raise KeyboardInterrupt
        return answer(self, *given)

    monkeypatch.setattr(GrownRun, "answer", counted)
    monkeypatch.setattr(batch, "OFTEN", math.inf)  # a compiled forward calls no module
    graphs = graphs_of(model)
    want = loop(model, X, graphs)
    before, weights = identity_of(model.module), list(map(id, model.module.parameters()))
    model.sweep(X, graphs, batch_size=4)  # what is certain is known from here on
    counts = set()
    for on in range(1, 30):
        plan = model.sweep_plan(X, graphs, batch_size=4)
        left[0] = on
        try:
            result = plan.run()
            stopped = None
        except mg.SweepStopped as caught:
            stopped, result = caught, caught.result
        left[0] = math.inf
        assert identity_of(model.module) == before
        if stopped is None:
            break
        done = [k for k, values in enumerate(plan._schedule.values) if values is not None]
        counts.add(len(done))
        assert stopped.plan is plan
        for k in range(len(graphs)):
            if k in done:
                assert furthest([result[k]], [want[k]]) < 1
            else:
                with pytest.raises(InputError, match="plan.run"):
                    result[k]
        assert furthest(plan.run(), want) < 1
        assert furthest(model.sweep(X, graphs), want) < 1
    else:
        raise AssertionError("it never came to its end")
    assert len(counts) > 2
    assert list(map(id, model.module.parameters())) == weights


@pytest.mark.parametrize("x", [X, ROWS], ids=["one row", "two rows"])
@pytest.mark.parametrize("metric", [lambda a: a[2], "l2"], ids=["score", "distance"])
def test_effects_hold_nan_for_what_is_not_done(model, monkeypatch, x, metric):
    graphs = graphs_of(model, x)
    whole = model.sweep(x, graphs, metric=metric)
    together, ran = Schedule._do, []

    def stopping(self, group, chunk):
        if len(ran) == stop:
            raise KeyboardInterrupt
        ran.append(chunk)
        return together(self, group, chunk)

    monkeypatch.setattr(Schedule, "_do", stopping)
    for stop in (0, 1, 2):
        ran.clear()
        with pytest.raises(mg.SweepStopped) as caught:
            model.sweep(x, graphs, metric=metric, batch_size=3)
        part = caught.value.result
        assert part.axes == whole.axes
        own, full = np.asarray(part), np.asarray(whole)
        done = {n for chunk in ran for n in chunk} & {*range(len(graphs))}
        for k in range(len(graphs)):
            expected = full[k] if k in done else np.full(full[k].shape, math.nan)
            assert np.allclose(own[k], expected, equal_nan=True, atol=1e-5)
        stop = -1
        assert np.allclose(np.asarray(caught.value.plan.run()), full, atol=1e-5)


def test_an_interrupt_in_a_metric_is_one_too(model):
    graphs, asked = graphs_of(model), []

    def score(logits):
        asked.append(1)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return logits[2]

    with pytest.raises(mg.SweepStopped) as caught:
        model.sweep(X, graphs, metric=score)
    own = np.asarray(caught.value.result)
    assert np.isnan(own).sum() == len(graphs) - 4
    finished = np.asarray(caught.value.plan.run())
    assert np.allclose(finished, np.asarray(model.sweep(X, graphs, metric=lambda a: a[2])))


@pytest.mark.parametrize("on", range(1, MANY + 1))
def test_an_interrupt_in_the_models_own_code_leaves_nothing(model, on):
    graphs = graphs_of(model)
    want = loop(model, X, graphs)
    for _ in range(2):  # while it is found out what is certain, and after that
        model.module.arm(KeyboardInterrupt, on)
        with pytest.raises(KeyboardInterrupt):
            model.sweep(X, graphs)
        model.module.arm(None, 1)
        assert furthest(model.sweep(X, graphs), want) < 1
    assert off(model(X), model.module(X)) == 0


def test_an_error_of_the_models_own_is_the_loops(model):
    graphs = graphs_of(model)
    model.sweep(X, graphs)
    model.module.arm(ValueError, 1)
    with pytest.raises(ValueError, match="told to"):
        model.sweep(X, graphs)
    model.module.arm(None, 1)
    assert furthest(model.sweep(X, graphs), loop(model, X, graphs)) < 1
