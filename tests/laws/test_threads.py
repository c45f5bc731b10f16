"""R15: threads and nested blocks do not see each other's edits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.errors import ForeignProxyError, MLXGraphError
from tests import models

THREADS = 6
ROUNDS = 25
ARRAY = type(mx.ones((1,)))  # while a block is open anywhere, `mx.array` stands for it


def expected(module, x, amount: float, layer: int):
    """By hand: what a chain gives when `amount` is added to one layer's output."""
    for k, step in enumerate(module.layers):
        y = step(x)
        x = x + mx.tanh(y + amount if k == layer else y)
    return x


def hammer(work, threads: int = THREADS) -> None:
    """Run `work(number)` in threads that start together; the first failure is raised."""
    barrier = threading.Barrier(threads)

    def begin(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(begin, k) for k in range(threads)]:
            future.result()


@pytest.mark.parametrize("compile", [False, "auto"])
def test_threads_with_different_edits_get_their_own_results(chain, x, compile):
    module = chain.module
    plain_class = [type(part) for _, part in module.named_modules()]

    def work(number):
        for turn in range(ROUNDS):
            amount, layer = number + turn / 10, (number + turn) % 3
            with chain.trace(x, compile=compile):
                h = chain.layers[layer].output
                h += amount
                middle = h.save()
                out = chain.output.save()
            assert models.same(out, expected(module, x, amount, layer), 1e-5), (number, turn)
            assert middle.shape == x.shape

    hammer(work)
    assert [type(part) for _, part in module.named_modules()] == plain_class


def test_threads_see_no_interception_of_their_own_plain_arrays(chain, x):
    stop = threading.Event()
    problems = []

    def plain():
        while not stop.is_set():
            a = mx.ones((3,))
            if type(mx.softmax(a) + mx.exp(a)) is not ARRAY:
                problems.append("type")
            if mx.array([1.0, 2.0]).sum().item() != 3.0:
                problems.append("value")

    def tracing(number):
        for _ in range(ROUNDS):
            with chain.trace(x, compile=False):
                chain.layers[0].output += 1
                chain.output.save()

    thread = threading.Thread(target=plain)
    thread.start()
    try:
        hammer(tracing, 3)
    finally:
        stop.set()
        thread.join()
    assert not problems


def test_threads_on_different_models_and_shapes(x):
    mx.random.seed(0)
    handles = [mg.InterpretableModel(models.Chain(depth=2 + k % 2)) for k in range(3)]
    mx.eval([handle.module.parameters() for handle in handles])

    def work(number):
        model = handles[number % 3]
        given = x[:, : 2 + number % 3]
        for turn in range(ROUNDS):
            with model.trace(given):
                model.layers[1].output += turn
                out = model.output.save()
            assert models.same(out, expected(model.module, given, turn, 1), 1e-5)

    hammer(work)


def test_an_exception_in_one_thread_leaves_the_others_alone(chain, x):
    def work(number):
        for turn in range(ROUNDS):
            if number % 2:
                with pytest.raises(KeyboardInterrupt), chain.trace(x):
                    chain.layers[0].output += 100
                    raise KeyboardInterrupt
            else:
                with chain.trace(x, compile=False):
                    chain.layers[0].output += turn
                    out = chain.output.save()
                assert models.same(out, expected(chain.module, x, turn, 0), 1e-5)

    hammer(work)


def test_looks_in_several_threads(chain, x):
    def work(number):
        for turn in range(5):
            with chain.trace(x):
                h = chain.layers[0].output
                h[...] = float(number)
                assert float(h.mean()) == pytest.approx(number)
                h += turn
                assert float(h.mean()) == pytest.approx(number + turn)

    hammer(work, 4)


def test_random_draws_in_threads_are_made_in_each_thread(chain, x):
    def work(number):
        for _ in range(5):
            mx.random.seed(number)
            with chain.trace(x, compile=False):
                noise = mx.random.normal((3,)).save()
            mx.random.seed(number)
            assert models.same(noise, mx.random.normal((3,)))

    hammer(work, 4)


# -- nested blocks --------------------------------------------------------------------------------


def test_an_inner_block_on_the_same_model_has_its_own_edits(chain, x):
    with chain.trace(x, compile=False) as outer:
        outer.layers[0].output += 1
        with chain.trace(x, compile=False) as inner:
            inner.layers[0].output += 10
            inside = inner.output
            inside = chain.output.save()
        first = outer.output.save()
    assert models.same(inside, expected(chain.module, x, 10.0, 0), 1e-5)
    assert models.same(first, expected(chain.module, x, 1.0, 0), 1e-5)


def test_the_outer_trace_can_be_reached_from_inside_the_inner_one(chain, x):
    with chain.trace(x, compile=False) as outer:
        with chain.trace(x, compile=False):
            chain.layers[1].output += 10
            outer.layers[0].output += 1
            outside = outer.layers[0].output.save()
            inner = chain.output.save()
        whole = outer.output.save()
    assert models.same(inner, expected(chain.module, x, 10.0, 1), 1e-5)
    assert models.same(whole, expected(chain.module, x, 1.0, 0), 1e-5)
    assert outside.shape == x.shape


def test_values_saved_in_an_inner_block_are_used_in_the_outer_one(chain, x):
    with chain.trace(x * 0):
        with chain.trace(x):
            clean = chain.layers[0].output.save()
        chain.layers[0].output = clean
        patched = chain.layers[0].output.save()
    assert models.same(patched, clean)


def test_blocks_of_two_models_nest(chain, x):
    mx.random.seed(9)
    other = mg.InterpretableModel(models.Chain())
    with chain.trace(x, compile=False), other.trace(x, compile=False):
        chain.layers[0].output += 1
        other.layers[2].output += 2
        a, b = chain.output.save(), other.output.save()
    assert models.same(a, expected(chain.module, x, 1.0, 0), 1e-5)
    assert models.same(b, expected(other.module, x, 2.0, 2), 1e-5)


def test_a_proxy_of_one_open_trace_cannot_be_used_in_another(chain, x):
    other = mg.InterpretableModel(models.Chain())
    with chain.trace(x), other.trace(x):
        for use in (
            lambda: setattr(other.layers[0], "output", chain.layers[0].output),
            lambda: chain.layers[0].output + other.layers[0].output,
            lambda: mx.stack([chain.layers[0].output, other.layers[0].output]),
        ):
            with pytest.raises(ForeignProxyError) as caught:
                use()
            assert "test_threads.py" in str(caught.value)
            assert isinstance(caught.value, ValueError) and isinstance(caught.value, MLXGraphError)
