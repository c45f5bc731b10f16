"""How many runs a forward takes best, measured on the way.

A larger batch is faster until it is not: caches overflow, and a kernel changes.  So the batch is
doubled for as long as a unit of work does not get dearer, and goes back by one step where it does.
"""

from __future__ import annotations

BEGIN = 2048  # tokens of the first forward
DEARER = 1.15  # the ratio of costs from which on a larger batch counts as slower


class Pace:
    """The size of the next chunk.

    Args: steady: whether it is to stay as it begins: ranks that compute one forward together cannot
        go by the time that each of them took.
    """

    def __init__(self, steady: bool = False) -> None:
        self._size: int | None = None
        self._best = float("inf")  # seconds for a unit of work
        self._settled = steady

    def size(self, tokens: int) -> int:
        """How many runs the next forward takes.  Args: tokens: of one run."""
        if self._size is None:
            self._size = max(1, BEGIN // max(tokens, 1))
        return self._size

    def took(self, count: int, work: float, seconds: float) -> None:
        """A forward of so many runs took so long."""
        if self._settled or self._size is None or count < self._size:
            return  # a last chunk, or one that memory made small, says nothing of a larger one
        cost = seconds / max(work, 1e-9)
        if cost > self._best * DEARER:
            self._size, self._settled = max(1, self._size // 2), True
            return
        self._best = min(self._best, cost)
        self._size *= 2
