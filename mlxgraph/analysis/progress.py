"""How far something is that takes long, on stderr."""

from __future__ import annotations

import sys
import time
from typing import Any

LONG = 3.0  # seconds after which, or before whose end, a bar is worth its line


class Progress:
    """A bar that appears where something takes a while; a context manager.

    Args:
        total: how many there are, None where that is not known; done: of them before.
        wanted: to show it at once (True), never (False), or once the rest is going to take more
            than a few seconds (None): where the total is not known, once it has taken so long.
        what, unit: what is done, and with what each.
        terminal: whether it appears by itself only where somebody watches.
    """

    def __init__(
        self,
        total: int | None,
        wanted: bool | None,
        done: int = 0,
        *,
        what: str,
        unit: str,
        terminal: bool = False,
    ):
        self._total, self._wanted = total, wanted
        self._before = self._done = done
        self._says = {"desc": what, "unit": unit}
        self._terminal = terminal
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

        self._bar = tqdm(total=self._total, initial=self._done, **self._says)

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._wanted is None and self._takes_long():
            if self._terminal and not sys.stderr.isatty():
                self._wanted = False
            else:
                self._open()

    def _takes_long(self) -> bool:
        spent, did = time.perf_counter() - self._began, self._done - self._before
        if self._total is None:
            return spent > LONG
        return did > 0 and spent * (self._total - self._done) / did > LONG
