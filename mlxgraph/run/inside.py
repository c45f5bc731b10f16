"""Inside a module: what its own forward calls, told to whoever asks.

While a forward is watched every module is hooked, so the innermost one that runs is known, and a
call of one of MLX's functions is that module's (`mlx_facts.watching`).  What such a call is given
and gives is then answered by the hook that answers for modules, under a path of its own.

Not told: what a function of MLX, or one that is compiled, calls itself (`nn.silu` calls
`mx.sigmoid`), what an edit computes, and methods and operators of arrays.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from mlxgraph.graph.inside import OPS, below, parted
from mlxgraph.mlx_facts.watching import is_in_compiled, reach, reach_attributes, watched
from mlxgraph.run.names import with_own_ops
from mlxgraph.run.standin import Hook, StandIn
from mlxgraph.run.tree import ModuleTree


class Watch:
    """Whose forward runs, and the hook that answers for modules and for what they call.

    Args: answer: the hook; paths: the sites inside that are answered for, None for all of them.
    """

    __slots__ = ("_answer", "_paths", "_running", "_told", "_named_so")

    def __init__(self, tree: ModuleTree, answer: Hook, paths: frozenset[str] | None = None):
        self._answer = answer
        self._paths = paths
        self._running: list[str] = []
        self._told = True  # whether calls are of the module that runs
        self._named_so = with_own_ops(tree)
        if paths is None:  # for a census, on which runs rely
            reach([type(module).__module__ for module in tree.modules.values()])

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
        if is_in_compiled(sys._getframe(2), _OWN_FORWARD):
            return real(*args, **kwargs)
        path = below(self._running[-1], f"{OPS}.{name}")
        self._told = False
        try:
            if self._paths is not None and path not in self._paths:
                return real(*args, **kwargs)
            return self._answer(path, real, args, kwargs)
        finally:
            self._told = True


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
