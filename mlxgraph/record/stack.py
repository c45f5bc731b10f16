"""Which recordings are open in this thread.  Each thread has its own stack."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxgraph.record.recording import Recording


class _Stack(threading.local):
    def __init__(self) -> None:
        self.open: list[Recording] = []
        self.paused = 0


stack = _Stack()


def current() -> Recording | None:
    """The innermost open recording of this thread, unless model code is running."""
    return stack.open[-1] if stack.open and not stack.paused else None


class paused:  # noqa: N801 - used as a statement: `with paused():`
    """Model code runs here: what it draws and computes is its own, not the recording's."""

    __slots__ = ()

    def __enter__(self) -> None:
        stack.paused += 1

    def __exit__(self, *error: object) -> None:
        stack.paused -= 1
