"""What `mx.compile` does besides compiling."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any

import mlx.core as mx

from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import compile, zeros

VARIABLE = "MLX_DISABLE_COMPILE"


class Compiled:
    """A function under `mx.compile`: traced at the first call, and anew after one that failed.

    A trace that fails leaves tracers in what it captured, so that the random state holds nothing;
    the compiled function is not to be used again.
    """

    __slots__ = ("_function", "_draws", "_compiled")

    def __init__(self, function: Callable[..., Any], draws: bool):
        """Args: draws: whether the function uses the random state."""
        self._function = function
        self._draws = draws
        self._compiled: Any = None

    @property
    def ready(self) -> bool:
        """Whether the last call left a compiled function."""
        return self._compiled is not None

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            state = random_state.as_captured() if self._draws else {}
            self._compiled = compile(self._function, **state)
        key = random_state.current() if self._draws else None
        try:
            return self._compiled(*args)
        except BaseException:
            self._compiled = None
            if key is not None:
                random_state.restore(key)
            raise


def function_of(compiled: Any) -> Any:
    """The function that was compiled is the last of what a compiled one holds, as Python's garbage
    collector is told."""
    return gc.get_referents(compiled)[-1]


def compiled_codes() -> Iterator[CodeType]:
    """The code of every function of the process that was compiled: each refers to its class, as the
    collector is told.

    The collector is not asked for all that it knows: that includes the tuples that other threads
    are only making, which fail while somebody holds them.
    """
    for value in gc.get_referrers(_COMPILED):
        if type(value) is _COMPILED:
            code = getattr(function_of(value), "__code__", None)
            if type(code) is CodeType:
                yield code


_COMPILED = type(compile(abs))
_calls = threading.local()
_lock = threading.Lock()
_open = 0
_exchanged: Any = None  # what went by the name of `mx.compile`, and what the module held
_held: Any = None


def _left_out(*args: Any, **kwargs: Any) -> Any:
    """What `mx.compile` is while `uncompiled` is open: itself, in threads that did not open it."""
    if getattr(_calls, "depth", 0) and args and callable(args[0]):
        return args[0]
    return (_exchanged or compile)(*args, **kwargs)


class uncompiled:  # noqa: N801 - used as a statement: `with uncompiled():`
    """A function that is compiled while another is traced, or run, lets no value out of it.  While
    this is open `mx.compile`, called in this thread, gives functions back as they are."""

    __slots__ = ()

    def __enter__(self) -> None:
        global _open, _exchanged, _held
        with _lock:
            if not _open:
                _exchanged, _held = mx.compile, vars(mx)["compile"]
                mx.compile = _left_out
            _open += 1
        _calls.depth = getattr(_calls, "depth", 0) + 1

    def __exit__(self, *error: Any) -> None:
        global _open
        _calls.depth -= 1
        with _lock:
            _open -= 1
            if not _open and mx.compile is _left_out:
                mx.compile = _held


def only_traced(function: Callable[..., Any], arrays: Iterable[mx.array]) -> None:
    """A compiled function that returns no arrays is traced, on tracers of its arguments' shapes and
    dtypes, and nothing in it is computed.

    Raises: whatever the function raises; ValueError where it looks at values.
    """

    def trace(*tracers: mx.array) -> list[mx.array]:
        function(*tracers)
        return []

    compile(trace)(*[zeros(a.shape, a.dtype) for a in arrays])


def switched_off() -> str:
    """What has switched compiling off, in words; "" where it is on.

    Where it is, `mx.compile` gives functions that are called anew each time.
    """
    calls: list[None] = []

    def once(x: mx.array) -> mx.array:
        calls.append(None)
        return x

    function = compile(once)
    for _ in range(2):
        function(zeros((1,)))
    if len(calls) == 1:
        return ""
    variable = os.environ.get(VARIABLE)
    return (
        "mx.disable_compile()" if variable is None else f"{VARIABLE}={variable} in the environment"
    )


def stream_name() -> str:
    """A stream's text tells it from every other."""
    return repr(mx.default_stream(mx.default_device()))
