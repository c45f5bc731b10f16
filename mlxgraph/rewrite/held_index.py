"""Indices along the positions of a value, of which a forward holds some.

`h[:, 2]` is the token 2 of the text, whichever tokens this forward has; `h[:, -1]` the newest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mlxgraph.graph.held import BEYOND, LATER, PAST, Absent, Held, Refused, Window, numbered
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import FULL, FrozenList, Slice

Numbers = Callable[[Node], Sequence[int] | None]


class Chosen(NamedTuple):
    """What an index chooses of a Held value.

    Attributes:
        local: the index as it is in this forward; None where it holds nothing of it.
        one: the number among the value's positions where the index is one number, or None.
        part: the value that the index shows, its `node` not made yet; None for one number.
        exact: whether another forward, of the same tokens as far as they are named, needs another.
    """

    local: tuple | None
    one: int | None
    part: Held | None
    exact: bool = False


def chosen_by(
    node: Node, held: Held, index: Any, ndim: int, window: Window, numbers: Numbers
) -> Chosen | Absent | Refused:
    """What `held[index]` chooses.  Args: ndim: of the value as it was recorded."""
    parts = every_axis(index, ndim)
    if parts is None:
        return Refused(node, "an index with a mask or an array of several axes", _MASKS)
    at = place(parts, ndim + held.axis)
    part = parts[at]
    if type(part) is int:
        return _one(node, held, parts, at, window)
    if type(part) is Slice and any(type(bound) is Node for bound in part.value):
        return Refused(node, "a slice of positions with recorded bounds", _MASKS)
    listed = None
    if type(part) is not Slice:
        listed = _listed(part, numbers)
        if listed is None:
            return Refused(node, "positions that are only known as it runs", _MASKS)
        chosen = [k for k, p in enumerate(parts) if type(p) not in (Slice, type(None))]
        others = [type(parts[k]) for k in chosen if k != at]
        if any(kind is not int for kind in others) or chosen[-1] - chosen[0] >= len(chosen):
            return Refused(
                node,
                "a list of positions beside another index",
                "Index one after the other: `h[:, [1, 2]][..., 0]`.",
            )
    return _several(node, held, parts, at, part, listed, window.stop == window.length)


_MASKS = "Write positions as whole numbers, lists of them or slices; or choose with mx.where."


def every_axis(index: Any, ndim: int) -> list[Any] | None:
    """The parts of an index, one for every axis and None for every new one."""
    parts = list(index) if type(index) is tuple else [index]
    taken = sum(1 for part in parts if part is not None and part is not Ellipsis)
    missing = [FULL] * (ndim - taken)
    if any(part is Ellipsis for part in parts):
        k = next(k for k, part in enumerate(parts) if part is Ellipsis)
        parts[k : k + 1] = missing
    else:
        parts += missing
    known = (int, Slice, FrozenList, Node, type(None))
    return parts if all(type(part) in known for part in parts) else None


def place(parts: list[Any], axis: int) -> int:
    """Where in an index the part for an axis stands."""
    seen = -1
    for k, part in enumerate(parts):
        seen += part is not None
        if seen == axis:
            return k
    raise AssertionError(parts)


def _listed(part: Any, numbers: Numbers) -> list[int] | None:
    if type(part) is FrozenList:
        return list(part.value) if all(type(n) is int for n in part.value) else None
    found = numbers(part)
    return None if found is None else list(found)


def _one(
    node: Node, held: Held, parts: list[Any], at: int, window: Window
) -> Chosen | Absent | Refused:
    number, count = parts[at], len(held.chosen)
    if not -count <= number < count:
        return Absent(BEYOND, number, node)
    number %= count
    fixed = held.anchored and parts[at] >= 0
    if number not in held.here:
        position = held.chosen[number]
        whose = PAST if position < window.start else LATER
        return Absent(whose, position, node, fixed)
    local, exact = list(parts), False
    if not (held.grown and held.whole and (parts[at] >= 0 or window.stop == window.length)):
        local[at], exact = held.here.index(number), held.grown
    return Chosen(tuple(local), number, None, exact)


def _several(
    node: Node,
    held: Held,
    parts: list[Any],
    at: int,
    part: Any,
    listed: list[int] | None,
    is_last: bool,
) -> Chosen:
    """A slice of positions, or a list of them, of which those count that the text has.

    Args: is_last: whether the forward holds the newest token of the step.
    """

    def taken(count: int) -> Sequence[int]:
        if listed is not None:
            return [n % count for n in listed if -count <= n < count]
        return range(count)[slice(*part.value)]

    numbers, recorded = taken(len(held.chosen)), taken(len(held.full))
    here = _at_hand(numbers, held.here)
    if part == FULL:
        anchored, fixed = held.anchored, held.fixed
    elif listed is not None:
        anchored = fixed = held.anchored and all(n >= 0 for n in listed)
    else:
        start, stop, step = part.value
        anchored = (
            held.anchored
            and (start is None or start >= 0)
            and (stop is None or stop >= 0)
            and (step is None or step > 0)
        )
        fixed = anchored and (stop is not None or held.fixed)
    # the axes that the index leaves, after the one of positions
    after = sum(1 for p in parts[at + 1 :] if type(p) is not int)
    shown = Held(
        None,
        -1 - after,
        those(held.chosen, numbers),
        here,
        those(held.full, recorded),
        held.whole and part == FULL,
        anchored,
        fixed,
        node,
        held.grown,
        held.pad,
    )
    if not here:
        return Chosen(None, None, shown)
    if held.grown and held.whole and (part == FULL or len(here) == len(numbers)):
        as_it_stands = listed is None or listed == numbers
        if is_last and as_it_stands:
            return Chosen(tuple(parts), None, shown)
    own = [held.here.index(numbers[k]) for k in here]
    inside = FULL if own == list(range(len(held.here))) else numbered(own)
    local = (*parts[:at], inside, *parts[at + 1 :])
    return Chosen(local, None, shown, held.grown and part != FULL)


def _at_hand(numbers: Sequence[int], held: Sequence[int]) -> Sequence[int]:
    """Which of some numbers are among those that a forward holds, by where they stand."""
    if isinstance(numbers, range) and isinstance(held, range):
        start, step = numbers.start, numbers.step
        if held.step == 1 and step > 0:
            bounds = [-((start - bound) // step) for bound in (held.start, held.stop)]
            return range(*[min(max(0, bound), len(numbers)) for bound in bounds])
    there = held if isinstance(held, range) else frozenset(held)
    return [k for k, number in enumerate(numbers) if number in there]


def those(of: Sequence[int], numbers: Sequence[int]) -> Sequence[int]:
    """The entries of a sequence by their numbers; of a long range they are not written out."""
    if isinstance(of, range) and isinstance(numbers, range) and numbers.step > 0:
        return of[numbers.start : numbers.stop : numbers.step]
    return [of[n] for n in numbers]


def ends(numbers: Sequence[int]) -> tuple[int, int]:
    """The least and the greatest of some numbers."""
    if isinstance(numbers, range):
        return min(numbers[0], numbers[-1]), max(numbers[0], numbers[-1])
    return min(numbers), max(numbers)
