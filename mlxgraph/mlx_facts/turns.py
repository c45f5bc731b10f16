"""One thread at a time, with nothing that an interrupt could leave closed for good.

A lock whose holder was interrupted, at whatever instruction, may never be given back.  So nobody
waits for long: what is done in a turn takes microseconds, and who has waited a thousand times that
goes on with a lock of its own, which the others wait for from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import TypeVar

PATIENCE = 1.0  # seconds
R = TypeVar("R")


class Turns:
    """Whoever does something here does it alone, and may do more within it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = RLock()

    def alone(self, do: Callable[[], R]) -> R:
        """What `do` gives, done when it is this thread's turn."""
        lock = self._lock
        while not lock.acquire(timeout=PATIENCE):
            if lock is self._lock:
                self._lock = RLock()
            lock = self._lock
        try:
            return do()
        finally:
            lock.release()
