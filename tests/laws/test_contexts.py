"""R15 within one thread: tasks and generators do not see each other's blocks."""

from __future__ import annotations

import asyncio
import contextlib

import mlx.core as mx
import pytest

from mlxgraph.errors import OutsideTraceError
from mlxgraph.record.stack import stack
from tests import models
from tests.laws.test_residue import namespaces
from tests.laws.test_threads import expected

PLAIN = type(mx.ones((1,)))


async def task(model, x, amount, layer):
    with model.trace(x, compile=False) as t:
        h = model.layers[layer].output
        await asyncio.sleep(0)
        h += amount
        middle = model.layers[layer].output.save()
        await asyncio.sleep(0.001 * (amount % 3))
        noise = mx.random.normal((2,)).save()
        await asyncio.sleep(0)
        out = model.output.save()
        assert t.graph.writes
    assert noise.shape == (2,) and models.same(middle, model.module.layers[0](x) * 0 + middle)
    return out


def test_tasks_have_blocks_of_their_own(chain, x):
    spaces = namespaces()

    async def main():
        jobs = [task(chain, x, float(k), k % 3) for k in range(8)]
        return await asyncio.gather(*jobs)

    for k, out in enumerate(asyncio.run(main())):
        assert models.same(out, expected(chain.module, x, float(k), k % 3), 1e-5)
    assert namespaces() == spaces and not stack.open


def test_a_task_that_is_cancelled_leaves_the_others_alone(chain, x):
    async def main():
        jobs = [asyncio.ensure_future(task(chain, x, float(k), 1)) for k in range(4)]
        await asyncio.sleep(0)
        jobs[1].cancel()
        return await asyncio.gather(*jobs, return_exceptions=True)

    results = asyncio.run(main())
    assert isinstance(results[1], asyncio.CancelledError)
    for k in (0, 2, 3):
        assert models.same(results[k], expected(chain.module, x, float(k), 1), 1e-5)
    assert not stack.open


def test_a_task_that_begins_in_a_block_may_open_one_of_its_own(chain, x):
    async def main():
        with chain.trace(x, compile=False):
            chain.layers[0].output += 1
            inner = asyncio.ensure_future(task(chain, x, 5.0, 2))
            await asyncio.sleep(0.002)
            chain.layers[1].output *= 1
            outer = chain.output.save()
            inner = await inner
        return inner, outer

    inner, outer = asyncio.run(main())
    assert models.same(inner, expected(chain.module, x, 5.0, 2), 1e-5)
    assert models.same(outer, expected(chain.module, x, 1.0, 0), 1e-5)


def steps(model, x, amount, layer):
    """A block that is left and come back to in its middle."""
    with model.trace(x, compile=False):
        h = model.layers[layer].output
        yield
        h += amount
        yield
        mx.random.normal((3,)).save("noise")
        model.layers[layer].output.save("again")
        yield
        out = model.output.save()
    yield out


@pytest.mark.parametrize("order", ["aabb", "abab", "abba", "baab"])
def test_generators_have_blocks_of_their_own(chain, x, order):
    running = {"a": steps(chain, x, 1.0, 0), "b": steps(chain, x, 7.0, 1)}
    outs = {}
    for name in order * 2:  # the last of four is the result
        outs[name] = next(running[name])
    assert models.same(outs["a"], expected(chain.module, x, 1.0, 0), 1e-5)
    assert models.same(outs["b"], expected(chain.module, x, 7.0, 1), 1e-5)
    assert not stack.open


@pytest.mark.parametrize("first", [True, False])
def test_a_generator_and_a_block_around_its_use(chain, x, first):
    generator = steps(chain, x, 3.0, 2)
    if first:
        next(generator)  # its block opens before ours
    with chain.trace(x, compile=False) as t:
        if not first:
            next(generator)
        chain.layers[0].output += 1
        next(generator)
        mine = chain.layers[0].output.save()
        noise = mx.random.normal((3,)).save()
        next(generator)
        out = chain.output.save()
    theirs = list(generator)[-1]
    assert models.same(theirs, expected(chain.module, x, 3.0, 2), 1e-5)
    assert models.same(out, expected(chain.module, x, 1.0, 0), 1e-5)
    assert mine.shape == x.shape and noise.shape == (3,) and len(t.graph.writes) == 1


def test_a_context_manager_around_a_block_is_a_block(chain, x):
    @contextlib.contextmanager
    def traced(amount):
        with chain.trace(x, compile=False) as t:
            chain.layers[0].output += amount
            yield t

    class Opened:
        def __enter__(self):
            self.block = chain.trace(x, compile=False)
            return self.block.__enter__()

        def __exit__(self, *error):
            return self.block.__exit__(*error)

    with traced(1.0):
        one = chain.output.save()
        with traced(2.0):
            two = chain.output.save()
        with chain.trace(x, compile=False), Opened():
            chain.layers[0].output += 4.0
            four = chain.output.save()
        with contextlib.ExitStack() as held:
            held.enter_context(traced(3.0))
            three = chain.output.save()
        again = chain.output.save()
    for amount, out in ((1.0, one), (2.0, two), (3.0, three), (4.0, four), (1.0, again)):
        assert models.same(out, expected(chain.module, x, amount, 0), 1e-5)


def test_async_generators_have_blocks_of_their_own(chain, x):
    async def stream(amount):
        with chain.trace(x, compile=False):
            yield None
            chain.layers[0].output += amount
            yield None
            out = chain.output.save()
        yield out

    async def main():
        a, b = stream(1.0), stream(2.0)
        for _ in range(2):
            await anext(a), await anext(b)
        return await anext(a), await anext(b)

    for amount, out in zip((1.0, 2.0), asyncio.run(main()), strict=True):
        assert models.same(out, expected(chain.module, x, amount, 0), 1e-5)


def test_outside_of_every_block_nothing_is_open(chain, x):
    async def main():
        job = asyncio.ensure_future(task(chain, x, 1.0, 0))
        await asyncio.sleep(0)
        with pytest.raises(OutsideTraceError):
            chain.layers[0].output.save()
        assert type(mx.random.normal((2,))) is PLAIN
        return await job

    assert asyncio.run(main()).shape == x.shape
