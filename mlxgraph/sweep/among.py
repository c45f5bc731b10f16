"""Which ranks do which variants: neighbours in a forward together, so that few forwards are made
twice.

In: a schedule.  Out: the numbers of each rank's variants, the same on all of them.
"""

from __future__ import annotations

from collections.abc import Collection

from mlxgraph.ranks.share import Piece, stretches
from mlxgraph.sweep.schedule import ALONE, GROWN, Schedule
from mlxgraph.sweep.shared import Shared


def among(schedule: Schedule, count: int, size: int, first: Collection[int]) -> list[list[int]]:
    """The numbers of each rank's variants.

    Args: count: of the variants to be shared out; first: numbers of those that are rank 0's.
    """
    costs, pieces = schedule.costs, list[Piece]()
    for at, group in enumerate(schedule.groups):
        join, opens = group.way == GROWN, 0.0
        if costs is not None and group.way != ALONE:
            opens = costs.grown([], group.start, group.kept).all * join
            opens += costs.forward * costs.layers
        for number in group.numbers:
            if number >= count or number in first:
                continue
            cost = 1.0
            if costs is not None and group.way == ALONE:
                cost = costs.alone(group.kept).all + costs.forward * costs.layers
            elif costs is not None:
                own = schedule.plan(number)
                both = costs.grown([own], group.start, group.kept, join)
                base = costs.grown([], group.start, group.kept, join)
                layers = both.layers - base.layers
                layers *= _part_of_its_layers(schedule.shared, own.row.first) if join else 1
                cost = layers + both.head - base.head
            pieces.append(Piece(number, cost, at, opens))
    found = stretches(pieces, size)
    found[0] = [*first, *found[0]]
    return [sorted(numbers) for numbers in found]


def _part_of_its_layers(shared: Shared, first: float) -> float:
    """Which part of the layers that a run goes through is its own: of the one in which it joins,
    what comes after."""
    ends = shared.layers
    after = [end for end in ends if end > first]
    if not after or len(ends) < 2:
        return 1.0
    number = len(ends) - len(after)
    begin = ends[number - 1] if number else ends[0] - (ends[1] - ends[0])
    left = min(1.0, (after[0] - first) / (after[0] - begin))
    return (len(after) - 1 + left) / len(after)
