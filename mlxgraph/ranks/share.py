"""Who does what: pieces of work among ranks, the same on each of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

_HALVINGS = 40


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


class Piece(NamedTuple):
    """A piece of work among neighbours.  Attributes: opens: what whoever does any of its group does
    besides."""

    number: int
    cost: float
    group: int
    opens: float


def stretches(pieces: Sequence[Piece], size: int) -> list[list[int]]:
    """The numbers of each rank's pieces: for each a stretch of them, of about the same cost."""
    low, high = 0.0, sum(one.cost + one.opens for one in pieces)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_filled(pieces, middle)) <= size else (middle, high)
    found = _filled(pieces, high)
    return found + [[] for _ in range(size - len(found))]


def _filled(pieces: Sequence[Piece], most: float) -> list[list[int]]:
    """Stretches that cost no more than this, or are one piece."""
    found: list[list[int]] = []
    load, group = 0.0, -1
    for one in pieces:
        cost = one.cost + one.opens * (one.group != group)
        if not found or load + cost > most:
            found.append([])
            load, cost = 0.0, one.cost + one.opens
        load, group = load + cost, one.group
        found[-1].append(one.number)
    return found
