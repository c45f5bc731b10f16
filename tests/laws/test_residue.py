"""R1 and R10: however a block ends, the model and MLX are as they were."""

from __future__ import annotations

import threading

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.record.stack import stack
from tests import models

NAMESPACES = [
    mx, mx.linalg, mx.fast, mx.fft, mx.random, nn, nn.layers, nn.layers.activations, nn.losses,
    mx.array, nn.Module, nn.Linear,
]  # fmt: skip


def namespaces() -> list[dict[str, int]]:
    return [{name: id(value) for name, value in dict(vars(ns)).items()} for ns in NAMESPACES]


@pytest.fixture(scope="module")
def model():
    mx.random.seed(2)
    module = models.InterruptedChain()
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)


@pytest.fixture
def no_residue(model, x):
    """Everything is the very same object before and after, and the model still traces."""
    spaces, tree = namespaces(), models.identity_of(model.module)
    plain = model.module(x)
    variables = [dict(vars(part)) for _, part in model.module.named_modules()]
    yield
    model.module.layers[1].arm(None, 0)
    assert namespaces() == spaces
    assert models.identity_of(model.module) == tree
    after = [dict(vars(part)) for _, part in model.module.named_modules()]
    assert [set(v) for v in after] == [set(v) for v in variables]
    assert not stack.open and not stack.paused
    assert models.same(model.module(x), plain)
    with model.trace(x):
        model.layers[0].output[:, 0] = 0.0
        out = model.output.save()
    assert out.shape == plain.shape and not models.same(out, plain)
    assert namespaces() == spaces


def busy(model):
    """Edits and saves of all kinds."""
    h = model.layers[0].output
    h[:, -1] += 1
    model.layers[1].output = mx.softmax(h, axis=-1)
    model.layers[2].input *= 2
    return model.output.save()


@pytest.mark.parametrize("compile", [False, True, "auto"])
def test_success_leaves_no_residue(no_residue, model, x, compile):
    for _ in range(3):
        with model.trace(x, compile=compile) as t:
            out = busy(model)
        mx.eval(out, t.output)


class Custom(BaseException):
    """Not even an Exception."""


ERRORS = [ValueError, AttributeError, KeyboardInterrupt, SystemExit, GeneratorExit, Custom]


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_in_the_block_reaches_the_user_unchanged(no_residue, model, x, error):
    raised = error("mine")
    with pytest.raises(error) as caught, model.trace(x) as t:
        busy(model)
        assert "(open)" in repr(t)
        raise raised
    assert caught.value is raised and caught.value.__cause__ is None
    assert "(done)" in repr(t)


def test_nothing_runs_when_the_block_raises(counted, x):
    counted.trace(x).__enter__().__exit__(None, None, None)
    counted.module.reset()
    with pytest.raises(ValueError), counted.trace(x):
        counted.layers[0].output += 1
        counted.output.save()
        raise ValueError
    assert counted.module.ticks() == [0, 0, 0, 0]
    with counted.trace(x, compile=False):
        counted.output.save()
    assert counted.module.ticks() == [1, 1, 1, 1]


def test_nothing_runs_inside_the_block(counted, x):
    counted.trace(x).__enter__().__exit__(None, None, None)
    counted.module.reset()
    with counted.trace(x, compile=False):
        counted.layers[0].output += 1
        counted.output.save()
        assert counted.module.ticks() == [0, 0, 0, 0]
    assert counted.module.ticks() == [1, 1, 1, 1], "one forward, when the block ends"


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Custom])
@pytest.mark.parametrize("on", [1, 2])
def test_an_interrupt_in_mid_forward_leaves_no_residue(no_residue, model, x, compile, error, on):
    """The first call from here on is the census of a new input shape, the second the run."""
    given = mx.zeros((2, 3 + on, 6)) + (0 if compile else 1)
    with mg_cleared(model):
        with pytest.raises(error):
            model.module.layers[1].arm(error, on)
            with model.trace(given, compile=compile):
                busy(model)
        model.module.layers[1].arm(None, 0)
        with model.trace(given, compile=compile):
            out = busy(model)
        mx.eval(out)
        with model.trace(given, compile=False):
            eager = busy(model)
        assert models.same(out, eager, 1e-5)


class mg_cleared:
    """Nothing is cached when this opens, so that the census is taken anew."""

    def __init__(self, model):
        self.model = model

    def __enter__(self):
        self.model.refresh()

    def __exit__(self, *exc):
        return None


def interrupting(error):
    def fn(*args):
        raise error("told to")

    return fn


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, Custom])
@pytest.mark.parametrize("compile", [False, True])
def test_an_interrupt_inside_apply_leaves_no_residue(no_residue, model, x, error, compile):
    times = []

    def later(h):
        times.append(1)
        if len(times) > 1:
            raise error("told to")
        return h * 2

    with pytest.raises(error), model.trace(x, compile=compile):
        model.layers[0].output = mg.apply(later, model.layers[0].output)
        model.output.save()
    with pytest.raises(error), model.trace(x):
        mg.apply(interrupting(error), model.layers[0].output)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Custom])
def test_an_interrupt_in_an_intercepted_function_leaves_no_residue(
    no_residue, model, x, error, monkeypatch
):
    """The interrupt comes while `mx.softmax(h)` works out its shape."""
    from mlxgraph.evaluate import functions

    def told_to(*args, **kwargs):
        raise error("told to")

    with pytest.raises(error), model.trace(x):
        h = model.layers[0].output
        h += 1
        with monkeypatch.context() as patch:
            patch.setitem(functions.NAMESPACES["mx"], "softmax", told_to)
            functions._found.pop("mx.softmax", None)
            try:
                mx.softmax(h, axis=0) + mx.softmax(h, axis=-2)
            finally:
                functions._found.pop("mx.softmax", None)


def test_an_interrupt_inside_a_look_leaves_no_residue(no_residue, model, x):
    with pytest.raises(KeyboardInterrupt), model.trace(x):
        h = model.layers[2].output
        h += 1
        model.module.layers[1].arm(KeyboardInterrupt, 1)
        float(h.sum())


def test_an_error_on_entry_leaves_no_residue(no_residue, model):
    with pytest.raises(ValueError), model.trace(mx.zeros((2, 4, 7))):
        raise AssertionError("the block must not begin")
    with (
        pytest.raises(AttributeError),
        model.trace(mx.zeros((2, 4, 6)), interventions={"layers.7": lambda h: h}),
    ):
        raise AssertionError("the block must not begin")
    with (
        pytest.raises(ZeroDivisionError),
        model.trace(mx.zeros((2, 4, 6)), interventions={"layers.0": lambda h: h * (1 // 0)}),
    ):
        raise AssertionError("the block must not begin")


def test_nested_blocks_put_back_what_was_there(no_residue, model, x):
    with model.trace(x):
        model.layers[0].output += 1
        with pytest.raises(KeyboardInterrupt), model.trace(x):
            model.layers[0].output += 2
            raise KeyboardInterrupt
        assert type(mx.softmax(model.layers[0].output)) is type(model.layers[0].output)
        model.output.save()


def test_blocks_that_close_in_another_order_put_back_what_was_there(no_residue, model, x):
    first, second = model.trace(x), model.trace(x)
    first.__enter__()
    second.__enter__()
    model.layers[0].output.save()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)


def test_a_name_that_the_user_puts_into_mx_inside_a_block_survives(model, x):
    with model.trace(x):
        mx.my_own_function = abs
        model.output.save()
    assert mx.my_own_function is abs
    del mx.my_own_function


def test_a_function_patched_by_the_user_inside_a_block_is_not_undone(model, x):
    original = mx.hanning
    try:
        with model.trace(x):
            mx.hanning = abs
            model.output.save()
        assert mx.hanning is abs
    finally:
        mx.hanning = original


def test_an_abandoned_generator_of_a_block_leaves_no_residue(no_residue, model, x):
    def generator():
        with model.trace(x):
            yield model.layers[0].output.shape

    steps = generator()
    assert next(steps) == (2, 4, 6)
    steps.close()


def test_a_block_opened_in_another_thread_does_not_outlive_it(no_residue, model, x):
    def work():
        with pytest.raises(KeyboardInterrupt), model.trace(x):
            busy(model)
            raise KeyboardInterrupt

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
