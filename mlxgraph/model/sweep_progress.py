"""How far a sweep is, on stderr, where it takes long."""

from __future__ import annotations

import time
from typing import Any

LONG = 3.0  # seconds that a sweep has to take before it shows how far it is


class Progress:
    """A bar that appears once the rest is going to take a while.

    Args: wanted: whether to show it at once (True), never (False), or by that (None).
    """

    def __init__(self, count: int, wanted: bool | None, done: int = 0):
        self._count, self._wanted = count, wanted
        self._before = self._done = done
        self._began = time.perf_counter()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._wanted:
            self._open()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def _open(self) -> None:
        from tqdm.auto import tqdm  # here: whoever never sees a bar does not wait for it

        self._bar = tqdm(total=self._count, initial=self._done, desc="sweep", unit="variant")

    def advance(self, count: int) -> None:
        """So many variants more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._wanted is None and self._done > self._before:
            spent = time.perf_counter() - self._began
            left = (self._count - self._done) / (self._done - self._before)
            if spent * left > LONG:
                self._open()
