"""A trace's arrays are freed when their last user is gone, and not by the garbage collector.

What the collector finds in circles is counted once the work is over: no array may be among it.
"""

from __future__ import annotations

import gc

import mlx.core as mx
import pytest

import mlxgraph as mg
from tests import models

BIG = (2, 500, 6)


@pytest.fixture
def in_circles():
    """How many arrays some work, warm, leaves to the garbage collector."""

    def count(work):
        for _ in range(3):
            work()
        gc.collect()
        gc.disable()
        try:
            work()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            return sum(isinstance(value, mx.array) for value in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    return count


def steered(model, given, compile="auto"):
    with model.trace(given, compile=compile) as t:
        model.layers[0].output[:, -1] += 1.0
        out = model.output[:, -1].save()
    mx.eval(out)
    return out, t


def raised(model, given):
    try:
        with model.trace(given):
            h = model.layers[0].output * 2
            h.save()
            h.tolist()
            raise ValueError
    except ValueError:
        pass


def looked(model, given):
    with model.trace(given):
        h = model.layers[0].output
        h *= 2 if h.sum() > 0 else 3
        model.layers[1](h).tolist()
        out = h.save()
    mx.eval(out)


def looked_up(model, given):
    with model.trace(given) as t:
        t.activations["layers.0"]
        model.output.save()
    mx.eval([t.activations["layers.0"], t.activations["layers.1"], t.output, t.get("layers.1")])
    assert t.activations is t.activations


def invoked(model, given):
    with model.trace() as t:
        with t.invoke(given):
            h = model.layers[0].output.save()
        with t.invoke(given + 1):
            model.layers[0].output[:] = h
            out = model.output.save()
    mx.eval(h, out)


def by_hand(model, given):
    with model.trace(given, compile=False):
        out = model.layers[1](model.layers[0].output).save()
    mx.eval(out)


def differentiated(model, given):
    with model.trace(given, compile=False) as t:
        h = model.layers[0].output
        gradient = t.grad(model.output.sum(), h).save()
    mx.eval(gradient)


def unbound(model, given):
    with model.trace(given):
        model.layers[0].output += mx.ones(given.shape) * mg.param("strength")
        model.output.save()


def of_functions(model, given):
    with model.trace(given):
        out = mg.apply(lambda h: h * 2, model.layers[0].output).save()
    mx.eval(out)


USES = {
    "eager": lambda m, x: steered(m, x, False),
    "compiled": lambda m, x: steered(m, x, True),
    "auto": steered,
    "an exception in the block": raised,
    "looks": looked,
    "activations": looked_up,
    "invokes": invoked,
    "collecting": lambda m, x: mg.collect_activations(m, x),
    "a module by hand": by_hand,
    "gradients": differentiated,
    "params without values": unbound,
    "mg.apply": of_functions,
    "a run": lambda m, x: mx.eval(m.run(mg.edit("layers.0", lambda h: h * 2), x).output),
    "a compiled graph": lambda m, x: m.compile(mg.edit("layers.0", lambda h: h * 2))(x),
    "a model": lambda m, x: steered(mg.InterpretableModel(models.Chain()), x, True),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.thin(4)
def test_no_array_waits_for_the_garbage_collector(chain, in_circles, name):
    given = mx.ones(BIG)
    assert in_circles(lambda: USES[name](chain, given)) == 0


def test_the_control_an_array_in_a_circle_is_counted(in_circles):
    def work():
        circle = [mx.ones(BIG)]
        circle.append(circle)

    assert in_circles(work) == 1


def test_a_cache_given_to_a_trace_is_freed(in_circles):
    from mlx_lm.models.cache import make_prompt_cache

    model = mg.InterpretableModel(models.make_llama())

    def work():
        with model.trace(mx.array([[1, 2, 3]]), cache=make_prompt_cache(model.module)):
            out = model.output.save()
        mx.eval(out)

    assert in_circles(work) == 0


@pytest.mark.parametrize("compile", [False, True, "auto"])
def test_forty_traces_take_the_memory_of_one(chain, compile):
    def work():
        out, t = steered(chain, mx.ones(BIG), compile)

    for _ in range(3):
        work()
    gc.collect()
    gc.disable()
    try:
        before = mx.get_active_memory()
        for _ in range(40):
            work()
        assert mx.get_active_memory() <= before
    finally:
        gc.enable()


def test_activations_outlive_the_name_of_their_trace(chain, x):
    with chain.trace(x) as t:
        chain.layers[0].output *= 2
    seen = t.activations
    expected = mx.array(t.get("layers.1"))
    del t
    assert models.same(seen["layers.1"], expected, 0)
    assert models.same(seen["layers.0"], seen["layers.0"], 0)


# -- saved parts -----------------------------------------------------------------------------------

PARTS = {
    "a position": lambda h: h[:, -1],
    "some": lambda h: h[:, 3:9],
    "every other": lambda h: h[:, ::2, :3],
    "a part of a part": lambda h: h[0][5],
    "turned round": lambda h: h.swapaxes(1, 2)[:, :, 3].reshape(-1),
    "split": lambda h: mx.split(h, 4, axis=1)[1],
    "nothing": lambda h: h[:, :0],
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_a_saved_part_does_not_keep_the_whole(chain, part, compile, gradient):
    def work(cut):
        with chain.trace(mx.ones(BIG) * 0.3, compile=compile) as t:
            h = chain.layers[0].output
            out = cut(h).save()
            if gradient:
                rest = t.grad(chain.output.sum(), h)[0, 0].save()
        mx.eval(out)
        if gradient:
            mx.eval(rest)
        return out

    whole = work(lambda h: h)
    work(PARTS[part])
    before = mx.get_active_memory()
    out = work(PARTS[part])
    held = mx.get_active_memory() - before
    assert models.same(out, PARTS[part](whole), 0) and out.dtype == whole.dtype
    assert held <= 0.6 * whole.nbytes, "a part of at most half, and what is small"


def test_most_of_an_array_is_not_copied(chain):
    def work(cut):
        with chain.trace(mx.ones(BIG), compile=False):
            out = cut(chain.layers[0].output).save()
        mx.eval(out)
        return out

    before = mx.get_active_memory()
    kept = work(lambda h: h[:, 1:])
    assert mx.get_active_memory() - before >= mx.ones(BIG).nbytes > kept.nbytes


def test_collecting_lets_a_layer_go_before_the_next(x):
    model = mg.InterpretableModel(models.make_llama(layers=12))
    rows = [[1 + (3 * n + k) % 20 for k in range(200)] for n in range(4)]

    def peak(work):
        work()
        gc.collect()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        work()
        return mx.get_peak_memory() - before

    def at_once():
        with model.trace(rows):
            kept = [layer.output[mx.arange(4), mx.full((4,), 199)].save() for layer in model.layers]
        mx.eval(kept)

    assert peak(lambda: mg.get_activations(model, rows)) < 0.9 * peak(at_once)
