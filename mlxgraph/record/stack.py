"""Which recordings are open in this thread.  Each thread has its own stack."""

from __future__ import annotations

import threading
from typing import Any


class _Stack(threading.local):
    def __init__(self) -> None:
        self.open: list[Any] = []
        self.paused = 0


stack = _Stack()


def current() -> Any:
    """The innermost open recording of this thread; None, also while model code is running."""
    return stack.open[-1] if stack.open and not stack.paused else None


def recording_on(root: Any) -> Any:
    """The innermost open recording of this thread on a model, or None."""
    for recording in reversed(stack.open):
        if recording.root is root:
            return recording
    return None


class paused:  # noqa: N801 - used as a statement: `with paused():`
    """Model code runs here: what it draws and computes is its own, not the recording's."""

    __slots__ = ()

    def __enter__(self) -> None:
        stack.paused += 1

    def __exit__(self, *error: object) -> None:
        stack.paused -= 1
