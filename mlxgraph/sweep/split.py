"""Where to cut the text: runs whose first edits are near each other go from one position on.

In: how many layers of work each first position has.  Out: the positions to begin at.
"""

from __future__ import annotations

from collections.abc import Mapping

FORWARD = 8  # positions of all layers that reading the weights once more costs, about


def starts(
    depths: Mapping[int, int], length: int, layers: int, rows: int = 1, forward: float = FORWARD
) -> list[int]:
    """The positions at which forwards begin, the cheapest choice; [0] for one on the whole text.

    A forward from s on does all runs whose first position is s or later, up to the next one's.
    Later ones than 0 need the keys and values of one forward more, on the whole text.

    Args: depths: of each first position, the layers that its runs go through, all together;
        rows: of one run; forward: what one more forward costs, in positions of all layers.
    """
    firsts = sorted(depths)
    best: list[float] = [0.0]
    came_from = [0]
    for stop in range(1, len(firsts) + 1):
        cheapest, at, total = float("inf"), 0, 0
        for start in range(stop - 1, -1, -1):
            total += depths[firsts[start]]
            positions = length - firsts[start]
            cost = best[start] + layers * (forward + rows * positions) + total * rows * positions
            if cost < cheapest:
                cheapest, at = cost, start
        best.append(cheapest)
        came_from.append(at)
    found, stop = [], len(firsts)
    while stop:
        stop = came_from[stop]
        found.append(firsts[stop])
    one = layers * (forward + rows * length)
    whole = one + sum(depths.values()) * rows * length
    return found[::-1] if best[-1] + one < whole else [0]
