"""Inside a module: what its own forward calls, told to whoever asks.

While a forward is watched every module is hooked, so the innermost one that runs is known, and a
call of one of MLX's functions is that module's (`mlx_facts.watching`).  What such a call is given
and gives is then answered by the hook that answers for modules, under a path of its own.

Not told: what a function of MLX, or one that is compiled, calls itself (`nn.silu` calls
`mx.sigmoid`), what an edit computes, and methods and operators of arrays, but for `a @ b`, which is
`mx.matmul`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Protocol

import mlx.core as mx

from mlxgraph.graph.inside import OPS, PATTERN, below, parted
from mlxgraph.mlx_facts.watching import is_in_compiled, is_in_vmap, reach_attributes, watched
from mlxgraph.run.attention import KERNELS, Inner, attend
from mlxgraph.run.handwritten import STEPS, Written
from mlxgraph.run.names import with_own_ops
from mlxgraph.run.standin import Hook, StandIn
from mlxgraph.run.tree import ModuleTree


class Values(Protocol):
    """Who answers for the values of attentions, by path and number."""

    def wants(self, path: str, number: int) -> bool:
        """Whether a value is read or written."""

    def writes(self, path: str, number: int) -> bool:
        """Whether what follows has to be computed from what is answered."""

    def value(self, path: str, number: int, value: mx.array) -> mx.array:
        """The value that goes on."""

    def in_blocks(self, path: str, number: int, inner: Inner) -> bool:
        """Whether what is read of an attention's scores and pattern was computed without either.

        Args: path: of the pattern.
        """


class _Attention:
    """The values of one attention, by name."""

    __slots__ = ("_values", "_module", "_number")

    def __init__(self, values: Values, module: str, number: int):
        self._values, self._module, self._number = values, module, number

    def wants(self, name: str) -> bool:
        return self._values.wants(below(self._module, name), self._number)

    def writes(self, name: str) -> bool:
        return self._values.writes(below(self._module, name), self._number)

    def value(self, name: str, value: mx.array) -> mx.array:
        return self._values.value(below(self._module, name), self._number, value)

    def in_blocks(self, inner: Inner) -> bool:
        return self._values.in_blocks(below(self._module, PATTERN), self._number, inner)


class Watch:
    """Whose forward runs, and the hook that answers for modules and for what they call.

    Args:
        answer: the hook; paths: the sites inside that it answers for, None for all of them.
        values: answers for the values of attentions.
        written: the attentions that modules write out by hand.
    """

    __slots__ = (
        "_answer", "_paths", "_running", "_told", "_named_so", "_values", "_written", "_numbers",
    )  # fmt: skip

    def __init__(
        self,
        tree: ModuleTree,
        answer: Hook,
        values: Values,
        paths: frozenset[str] | None = None,
        written: Mapping[str, Sequence[Written]] = MappingProxyType({}),
    ):
        self._answer = answer
        self._values = values
        self._written = written
        self._numbers: Counter[str] = Counter()
        self._paths = paths
        self._running: list[str] = []
        self._told = True  # whether calls are of the module that runs
        self._named_so = with_own_ops(tree)

    def on(self, standin: StandIn) -> AbstractContextManager[None]:
        """Watch the forward of a stand-in, which is hooked by `module`."""
        reach_attributes(standin.modules.values())
        return watched(self)

    def module(
        self, path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """The hook of the modules."""
        if not self._told:  # called by hand, in an edit
            return self._answer(path, original, args, kwargs)
        self._told = False
        try:
            return self._answer(path, partial(self._own_forward, path, original), args, kwargs)
        finally:
            self._told = True

    def _own_forward(
        self, path: str, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        self._running.append(path)
        self._told = True
        try:
            return original(*args, **kwargs)
        finally:
            self._told = False
            self._running.pop()

    def operation(
        self, name: str, real: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """What a call of one of MLX's functions gives."""
        if not self._told or not self._running or self._running[-1] in self._named_so:
            return real(*args, **kwargs)
        frame = sys._getframe(2)
        if is_in_compiled(frame, _OWN_FORWARD) or is_in_vmap(frame):
            return real(*args, **kwargs)
        module = self._running[-1]
        path = below(module, f"{OPS}.{name}")
        self._told = False
        try:
            if name in KERNELS:
                real = partial(self._kernel, self._next(module), module, name, real)
            elif name in STEPS and module in self._written:
                real = self._step(module, name, self._next(path), real)
            if self._paths is not None and path not in self._paths:
                return real(*args, **kwargs)
            return self._answer(path, real, args, kwargs)
        finally:
            self._told = True

    def _next(self, counted: str) -> int:
        self._numbers[counted] += 1
        return self._numbers[counted] - 1

    def _kernel(
        self, number: int, module: str, name: str, real: Any, *args: Any, **kwargs: Any
    ) -> Any:
        return attend(name, _Attention(self._values, module, number), real, args, kwargs)

    def _step(self, module: str, name: str, number: int, real: Any) -> Any:
        """What an operation computes that is a step of an attention written out by hand."""
        for k, written in enumerate(self._written[module]):
            step = written.step(name, number)
            if step is not None:
                return partial(step, _Attention(self._values, module, k), real)
        return real


_OWN_FORWARD = Watch._own_forward.__code__


def line_of_call(tree: ModuleTree, path: str) -> str:
    """`llama.py:88`: the line of a model's code that just called a function, to be asked from the
    hook.  Where helpers are in between, the nearest line of the module's own methods."""
    kind = type(tree.modules[(parted(path) or ("",))[0]])
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    nearest = frame
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        if isinstance(frame.f_locals.get("self"), kind):
            nearest = frame
            break
        frame = frame.f_back
    if nearest is None:
        return ""
    return f"{Path(nearest.f_code.co_filename).name}:{nearest.f_lineno}"


_OURS = str(Path(__file__).parents[1]) + os.sep
