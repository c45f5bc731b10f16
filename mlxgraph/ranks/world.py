"""Which ranks there are, and who works alone."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mlxgraph.errors import RankError
from mlxgraph.mlx_facts.processes import expected, says_not_there, world
from mlxgraph.ranks.post import Post

PATIENCE = 600.0  # seconds that a rank waits for the others to come: they may load models first
VARIABLE = "MLXGRAPH_ALONE"  # in the environment: no method shares anything out
_by_itself: ContextVar[bool] = ContextVar("mlxgraph_by_itself", default=False)
_launched = functools.cache(expected)


@contextmanager
def alone() -> Iterator[None]:
    """Inside it a rank works by itself: methods of many prompts do all of them, on this rank alone.

    For scripts that `mlx.launch` started: what is in it may be done by one rank and not by others.
    It changes nothing where one process runs, nor what a model computes that is itself spread over
    the ranks.

    Example:
        >>> with mg.alone():
        ...     states = mg.get_activations(model, ["The capital of France is"])
    """
    token = _by_itself.set(True)
    try:
        yield
    finally:
        _by_itself.reset(token)


def others() -> Post | None:
    """Who speaks to the other ranks; None where there are none, or this one works alone.

    Raises: RankError where this process was started with others and cannot speak to them.
    """
    if _launched() == 1 or _by_itself.get() or os.environ.get(VARIABLE, "0") not in ("", "0"):
        return None
    if threading.current_thread() is not threading.main_thread():
        return None  # threads come in any order, and ranks speak in one
    return _post()


@functools.cache
def _post() -> Post | None:
    count, began = _launched(), time.monotonic()
    while True:
        try:
            group = world()
            break
        except RuntimeError as error:
            if not says_not_there(error) or time.monotonic() - began > PATIENCE:
                raise _mute(count, str(error)) from None
    if group.size() == 1:
        raise _mute(count, "it finds itself alone")
    return Post(group)


def _mute(count: int, why: str) -> RankError:
    return RankError(
        f"this process was launched as one of {count}, and MLX cannot speak to the others here:"
        f" {why}",
        "Choose another back end (mlx.launch --backend ring), or install an MLX that has this one;"
        f" {VARIABLE}=1 in the environment lets each process work by itself.",
    )
