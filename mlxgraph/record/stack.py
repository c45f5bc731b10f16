"""Which recordings are open here: in this task, this generator, this thread.

Each context (a thread's, an asyncio task's) has recordings of its own.  Generators share the
context of whoever runs them, so a recording also knows the generator that its block was opened in:
of several, the nearest one on the call stack is meant.

What is said here is looked up, not counted: a recording is open as long as it says so, and model
code is running as long as the frame that runs it is on the call stack.  So an interrupt, at
whatever instruction it comes, leaves nothing to be put right.
"""

from __future__ import annotations

import sys
import threading
import weakref
from contextvars import ContextVar
from types import FrameType
from typing import Any, TypeVar

from mlxgraph.errors.tracebacks import at_the_edge

_open: ContextVar[tuple[Any, ...]] = ContextVar("mlxgraph_open", default=())
F = TypeVar("F")
_GENERATOR = 0x20 | 0x200  # CO_GENERATOR and CO_ASYNC_GENERATOR


class _Running(threading.local):
    frame: FrameType | None = None  # of the library: from there down it is model code that runs


_running = _Running()


class Stack:
    """What is open here, to look at."""

    @property
    def open(self) -> list[Any]:
        """The recordings that are open in this context, innermost last."""
        return [recording for recording in _open.get() if recording.open]

    @property
    def paused(self) -> bool:
        """Whether model code is running in this thread."""
        return _running.frame is not None and _is_running()


stack = Stack()


def current() -> Any:
    """The innermost open recording; None, also while model code is running."""
    recordings = _open.get()
    if not recordings or (_running.frame is not None and _is_running()):
        return None
    last = recordings[-1]
    if len(recordings) == 1:
        return last if last.open else None
    return _nearest([recording for recording in recordings if recording.open])


def recording_on(root: Any) -> Any:
    """The innermost open recording on a model, or None."""
    recordings = _open.get()
    if len(recordings) == 1:
        last = recordings[0]
        return last if last.root is root and last.open else None
    if not recordings:
        return None
    return _nearest([r for r in recordings if r.root is root and r.open])


def enter(recording: Any) -> None:
    """A block is opened: what is recorded in this context goes to it."""
    recording.owner = _generator()
    _open.set((*[other for other in _open.get() if other.open], recording))


def leave(recording: Any) -> None:
    """A block is over.  It is to be closed already; here it is let go of."""
    recordings = _open.get()
    if recording in recordings:
        _open.set(tuple([other for other in recordings if other is not recording]))


def _nearest(recordings: list[Any]) -> Any:
    """Of several open recordings the one whose generator is nearest on the call stack."""
    owners = {recording.owner for recording in recordings}
    if len(owners) > 1:
        here = _generator(owners)
        recordings = [r for r in recordings if r.owner == here] or recordings
    return recordings[-1] if recordings else None


def _generator(among: set[int] | None = None) -> int:
    """Which generator, if any, is nearest on the call stack: the identity of its frame, or 0.

    One that `contextlib` runs is no more than a part of its `with` statement.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        back = frame.f_back
        if frame.f_code.co_flags & _GENERATOR and (among is None or id(frame) in among):
            if back is None or back.f_globals.get("__name__") != "contextlib":
                return id(frame)
        frame = back
    return 0


def _is_running() -> bool:
    """Whether the frame that runs model code is still there; an interrupt may have ended it."""
    running = _running.frame
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame is running:
            return True
        frame = frame.f_back
    _running.frame = None
    return False


class paused:  # noqa: N801 - used as a statement: `with paused():`
    """Model code runs here: what it draws and computes is its own, not the recording's."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _running.frame
        _running.frame = sys._getframe(1)

    def __exit__(self, *error: object) -> None:
        _running.frame = self._before


class Block:
    """A `with` statement that is left, however it is left.

    An interrupt can come before the first instruction of `__exit__`, or between two of the
    statement's own.  Python holds on to what it found as `__exit__` exactly as long as the
    statement runs: its end is the statement's.
    """

    __slots__ = ("_exit", "_block", "__weakref__")

    def __init__(self, exit: Any, block: Any):
        self._exit = exit
        self._block = block

    @at_the_edge
    def __call__(self, *error: Any) -> Any:
        return self._exit(self._block, *error)


def exit_of_block(function: F) -> F:
    """Decorates `__exit__`: the object's `_statement` is then a weak reference to the statement."""
    return _ExitOfBlock(function)  # type: ignore[return-value]  # to type checkers still a method


class _ExitOfBlock:
    def __init__(self, function: Any):
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self._function
        statement = Block(self._function, instance)
        instance._statement = weakref.ref(statement)
        return statement
