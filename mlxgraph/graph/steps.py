"""Which steps of a generation something is for: one number, several, or a slice of them.

Step 0 is the prompt, all its chunks; every later step is one new token.  A forward that is part of
no generation is a step 0.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.graph.values import FrozenList, Slice


def frozen_steps(steps: Any) -> Any:
    """Steps as a node holds them: an int, a Slice or a tuple of ints."""
    if isinstance(steps, slice):
        return Slice(steps.start, steps.stop, steps.step)
    return steps if isinstance(steps, int) else tuple(steps)


def takes_step(steps: Any, step: int) -> bool:
    """Whether a step is among those meant, frozen or not."""
    if isinstance(steps, Slice):
        steps = slice(*steps.value)
    if isinstance(steps, slice):
        start, stop, by = steps.start or 0, steps.stop, steps.step or 1
        return step >= start and (stop is None or step < stop) and not (step - start) % by
    if isinstance(steps, FrozenList):
        steps = steps.value
    return step in steps if isinstance(steps, (tuple, list)) else step == steps


def bounds_of(steps: Any) -> tuple[int, ...]:
    """The steps from which on something else is meant, as far as that is not by turns."""
    if isinstance(steps, Slice):
        start, stop, _ = steps.value
        start = start or 0
        return (start, start + 1) if stop is None else (start, start + 1, stop)
    numbers = steps if isinstance(steps, tuple) else (steps,)
    return tuple(bound for number in numbers for bound in (number, number + 1))


def last_named(steps: Any) -> int:
    """The first step of a slice, or the largest of numbers: what has to come for it to matter."""
    if isinstance(steps, Slice):
        return steps.value[0] or 0
    return max(steps) if isinstance(steps, tuple) else steps


def spoken_steps(steps: Any) -> str:
    """`t.step[1:]`"""
    if isinstance(steps, Slice):
        start, stop, by = ("" if v is None else str(v) for v in steps.value)
        return f"t.step[{start}:{stop}{':' + by if by else ''}]"
    return f"t.step[{', '.join(map(str, steps)) if isinstance(steps, tuple) else steps}]"
