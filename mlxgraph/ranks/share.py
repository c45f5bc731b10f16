"""Who does what: pieces of work among ranks, the same on each of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def shares(costs: Sequence[float], size: int, first: Collection[int] = ()) -> list[list[int]]:
    """The numbers of each rank's pieces, in order: dear ones first to whoever has least to do.

    Args: first: numbers of pieces that are rank 0's.
    """
    loads = [0.0] * size
    found: list[list[int]] = [[] for _ in range(size)]
    loads[0], found[0] = sum(costs[number] for number in first), list(first)
    rest = [number for number in range(len(costs)) if number not in first]
    for number in sorted(rest, key=lambda n: (-costs[n], n)):
        rank = min(range(size), key=lambda r: (loads[r], len(found[r]), r))
        loads[rank] += costs[number]
        found[rank].append(number)
    return [sorted(numbers) for numbers in found]
