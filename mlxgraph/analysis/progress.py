"""How many prompts are done, on stderr, where somebody watches and it takes a while."""

from __future__ import annotations

import sys
import time
from typing import Any

LONG = 3.0  # seconds after which a bar is worth its line


class Bar:
    """A bar; a context manager.

    Args: total: None where it is not known; wanted: at once (True), never (False), or on a
        terminal once it has taken a while (None).
    """

    def __init__(self, total: int | None, wanted: bool | None):
        self._total, self._wanted = total, wanted
        self._done = 0
        self._bar: Any = None
        self._began = time.perf_counter()

    def __enter__(self) -> Bar:
        if self._wanted:
            self._open()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def _open(self) -> None:
        self._wanted = False
        from tqdm.auto import tqdm  # here: whoever never sees a bar does not wait for it

        self._bar = tqdm(total=self._total, initial=self._done, desc="activations", unit="prompt")

    def advance(self, count: int) -> None:
        """So many prompts more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._wanted is None and time.perf_counter() - self._began > LONG:
            self._wanted = sys.stderr.isatty()
            if self._wanted:
                self._open()
