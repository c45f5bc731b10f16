"""What `mx.compile` does besides compiling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx

from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import compile, zeros


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


def only_traced(function: Callable[..., Any], arrays: Iterable[mx.array]) -> None:
    """A compiled function that returns no arrays is traced, on tracers of its arguments' shapes and
    dtypes, and nothing in it is computed.

    Raises: whatever the function raises; ValueError where it looks at values.
    """

    def trace(*tracers: mx.array) -> list[mx.array]:
        function(*tracers)
        return []

    compile(trace)(*[zeros(a.shape, a.dtype) for a in arrays])


def stream_name() -> str:
    """A stream's text tells it from every other."""
    return repr(mx.default_stream(mx.default_device()))
