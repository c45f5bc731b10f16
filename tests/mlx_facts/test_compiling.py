"""What `mx.compile` does besides compiling."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.compiling import (
    Compiled,
    function_of,
    only_traced,
    stream_name,
    switched_off,
    uncompiled,
)
from mlxgraph.mlx_facts.functions import is_compiled
from mlxgraph.mlx_facts.probes import holds_nothing


def test_a_compiled_function_is_traced_once_for_a_shape_and_a_dtype() -> None:
    traces: list[tuple[int, ...]] = []

    def double(x: mx.array) -> mx.array:
        traces.append(x.shape)
        return x * 2

    compiled = Compiled(double, draws=False)
    assert not compiled.ready
    for _ in range(3):
        assert compiled(mx.ones((2,))).tolist() == [2, 2]
    assert compiled.ready and traces == [(2,)]
    compiled(mx.ones((3,)))
    assert traces == [(2,), (3,)]


def test_a_captured_array_is_baked_in() -> None:
    held = [mx.ones((2,))]
    compiled = mx.compile(lambda x: x + held[0])
    compiled(mx.zeros((2,)))
    held[0] = mx.ones((2,)) * 5
    assert compiled(mx.zeros((2,))).tolist() == [1, 1]


def test_a_trace_that_fails_leaves_a_random_state_that_holds_nothing() -> None:
    def fails(x: mx.array) -> mx.array:
        mx.random.normal((2,))
        raise KeyError("in mid-trace")

    key = random_state.current()
    with pytest.raises(KeyError):
        mx.compile(fails, **random_state.as_captured())(mx.ones((1,)))
    assert holds_nothing(random_state.current())
    random_state.restore(key)
    assert not holds_nothing(random_state.current())


@pytest.mark.parametrize("draws", [False, True])
def test_a_function_whose_trace_failed_is_traced_anew(draws: bool) -> None:
    broken = [True]

    def function(x: mx.array) -> mx.array:
        y = x + (mx.random.normal((2,)) if draws else 1)
        if broken[0]:
            raise KeyError("in mid-trace")
        return y

    compiled = Compiled(function, draws)
    mx.random.seed(5)
    expected = [1, 1] if not draws else mx.random.normal((2,)).tolist()
    mx.random.seed(5)
    with pytest.raises(KeyError):
        compiled(mx.zeros((2,)))
    assert not compiled.ready
    broken[0] = False
    assert compiled(mx.zeros((2,))).tolist() == pytest.approx(expected)
    assert compiled.ready


def test_what_only_traces_sees_shapes_and_computes_nothing() -> None:
    seen: list[mx.array] = []
    given = mx.ones((2, 3), mx.float16)
    only_traced(lambda a, b: seen.extend([a + 0, b @ b]), [given, mx.zeros((4, 4))])
    assert [(a.shape, a.dtype) for a in seen] == [((2, 3), mx.float16), ((4, 4), mx.float32)]
    assert all(map(holds_nothing, seen))


def test_what_only_traces_refuses_a_look() -> None:
    with pytest.raises(ValueError, match="function transformations"):
        only_traced(lambda x: x.sum().item(), [mx.ones((2,))])


def test_what_only_traces_works_inside_other_transformations() -> None:
    def function(x: mx.array) -> mx.array:
        only_traced(lambda y: shapes.append(y.shape), [x])
        return x.sum()

    shapes: list[tuple[int, ...]] = []
    for transformed in (mx.grad(function), mx.vmap(function), mx.compile(function)):
        mx.eval(transformed(mx.ones((2, 2))))
    assert shapes == [(2, 2), (2,), (2, 2)]


def test_a_streams_text_tells_it_from_another() -> None:
    here = stream_name()
    assert here == stream_name() == repr(mx.default_stream(mx.default_device()))
    with mx.stream(mx.new_stream(mx.default_device())):
        assert stream_name() != here
    assert stream_name() == here


def test_a_compiled_function_holds_what_it_was_made_of() -> None:
    linear = nn.Linear(2, 2)

    def double(x: mx.array) -> mx.array:
        return 2 * x

    for made_of in (double, linear, linear.__call__):
        options: list[dict[str, Any]] = [{}, {"inputs": [linear.state]}, {"shapeless": True}]
        for given in options:
            assert function_of(mx.compile(made_of, **given)) == made_of


def test_nothing_is_compiled_in_this_thread_while_it_is_left_out() -> None:
    real, found = mx.compile, []
    with uncompiled():
        with uncompiled():
            assert mx.compile(abs) is abs and partial(mx.compile, shapeless=True)(abs) is abs
        thread = threading.Thread(target=lambda: found.append(mx.compile(mx.abs)))
        thread.start()
        thread.join()
        assert mx.compile(abs) is abs
    assert mx.compile is real and is_compiled(mx.compile(abs))
    assert is_compiled(found[0]) and found[0](mx.array(-2)).item() == 2


def test_what_others_put_in_its_place_meanwhile_stays() -> None:
    real = mx.compile
    try:
        with uncompiled():
            mx.compile = abs  # type: ignore[assignment]
        assert mx.compile is abs
    finally:
        mx.compile = real  # type: ignore[assignment]


def test_a_function_is_called_anew_each_time_while_compiling_is_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert switched_off() == ""
    mx.disable_compile()
    try:
        assert switched_off() == "mx.disable_compile()"
        monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
        assert "MLX_DISABLE_COMPILE=1" in switched_off()
    finally:
        mx.enable_compile()
    assert switched_off() == ""
