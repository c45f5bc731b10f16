"""Placeholders: arrays that are there for their shape and dtype, and hold nothing."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlxgraph.mlx_facts.placeholders import placeholder


def test_what_vmap_hands_to_a_function_outlives_the_trace_and_holds_nothing() -> None:
    seen: list[mx.array] = []
    mx.vmap(lambda x: seen.append(x) or x)(mx.zeros((1, 2, 3), mx.float16))
    (tracer,) = seen
    assert tracer.shape == (2, 3) and tracer.dtype == mx.float16
    with pytest.raises(RuntimeError, match="without a primitive"):
        mx.eval(tracer)


@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 0, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.int32, mx.bool_])
def test_a_placeholder_has_a_shape_and_a_dtype(shape: tuple[int, ...], dtype: mx.Dtype) -> None:
    it = placeholder(shape, dtype)
    assert it.shape == shape and it.dtype == dtype and it.ndim == len(shape)


def test_shapes_are_inferred_through_placeholders() -> None:
    result = mx.softmax(placeholder((2, 3), mx.float16) @ placeholder((3, 5), mx.float16), -1)
    assert result.shape == (2, 5) and result.dtype == mx.float16


def test_a_shape_that_does_not_fit_raises_at_once() -> None:
    with pytest.raises(ValueError, match="(?i)shape"):
        placeholder((2, 3), mx.float32) @ placeholder((2, 3), mx.float32)


@pytest.mark.parametrize(
    "ask",
    [
        mx.eval,
        mx.async_eval,
        lambda x: x.tolist(),
        lambda x: x.sum().item(),
        lambda x: mx.eval(mx.ones((2,)) + x),
    ],
)
def test_nothing_that_comes_of_a_placeholder_can_be_evaluated(ask) -> None:
    with pytest.raises(RuntimeError, match="without a primitive"):
        ask(placeholder((2,), mx.float32))


def test_numpy_is_refused_what_holds_nothing_and_the_process_lives_on() -> None:
    """Up to MLX 0.32.3 an error in the buffer protocol ended the process: `np.array(h)` in a block,
    or a numpy function under `mg.apply`, would have taken the user's session with it."""
    script = (
        "import mlx.core as mx, numpy as np\n"
        "seen = []\n"
        "mx.vmap(lambda x: seen.append(x) or x)(mx.zeros((1, 2)))\n"
        "for ask in (memoryview, np.array, np.asarray):\n"
        "    try: ask(seen[0])\n"
        "    except RuntimeError as error: assert 'without a primitive' in str(error)\n"
        "    else: raise SystemExit(f'{ask} gave something')\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_numpy_asks_for_the_buffer_first_and_for_array_where_that_is_refused() -> None:
    class Told(mx.array):
        def __array__(self, *args, **kwargs):
            return np.array([1.0, 2.0])

    assert np.array(Told(placeholder((2,), mx.float32))).tolist() == [1, 2]
    assert np.array(Told(mx.zeros((2,)))).tolist() == [0, 0]


def test_a_placeholder_can_be_made_inside_any_transformation() -> None:
    def inside(x: mx.array) -> mx.array:
        it = placeholder((7, 5), mx.float32)
        assert it.shape == (7, 5)
        return (x * it.shape[0]).sum()

    for transformed in (mx.vmap(inside), mx.compile(inside), mx.grad(inside)):
        placeholder.cache_clear()
        mx.eval(transformed(mx.ones((2,))))
        with pytest.raises(RuntimeError, match="without a primitive"):
            mx.eval(placeholder((7, 5), mx.float32))
