"""`t.step[...]`: which steps of a generation a block is for.

In: what stands in the brackets.  Out: the steps as a graph has them, or an error on that line.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from mlxgraph.errors import InputError, NoStepError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.steps import frozen_steps


@with_edges
class StepsOf:
    """`t.step`: which steps of a generation a block is for."""

    def __init__(self, at: Callable[[Any, str], Any], most: int):
        """Args: at: makes the block; most: how many steps there may be."""
        self._at = at
        self._most = most

    def __getitem__(self, steps: Any) -> Any:
        return AtSteps(self._at(_checked(steps, self._most), str(here())))


@with_edges
class AtSteps:
    """`with t.step[1:]:`"""

    def __init__(self, block: AbstractContextManager[Any]):
        self._block = block

    def __enter__(self) -> Any:
        return self._block.__enter__()

    def __exit__(self, *error: Any) -> Any:
        return self._block.__exit__(*error)

    def __iter__(self) -> Any:
        raise InputError(
            "a block is recorded once, for all of these steps, and there is nothing to loop over.\n"
            f"  at {here()}\n  Write `with t.iter[:]:`, or `t.step[1:]`."
        )


def _checked(steps: Any, most: int) -> Any:
    """Steps as a graph has them.  Raises: NoStepError for what cannot come."""
    named = steps
    numbers = [steps] if isinstance(steps, int) else steps
    if isinstance(steps, slice):
        numbers = [n for n in (steps.start, steps.stop) if n is not None]
        if steps.step is not None and (not isinstance(steps.step, int) or steps.step < 1):
            numbers = ["?"]
    if not isinstance(numbers, (list, tuple, range)) or not all(
        isinstance(n, int) and not isinstance(n, bool) for n in numbers
    ):
        raise InputError(
            f"{steps!r} is no step of a generation.\n  at {here()}\n"
            "  Write t.step[0] for the prompt, t.step[1:] for what follows, t.step[2, 5]."
        )
    if any(n < 0 for n in numbers):
        raise NoStepError(
            f"t.step[{steps!r}] counts from the last step, and how many come is not known.",
            str(here()),
            "Write its number from the first: t.step[0] is the prompt.",
        )
    first = steps.start or 0 if isinstance(steps, slice) else max(numbers, default=0)
    if first >= most:
        raise NoStepError(
            f"step {first} never comes: max_tokens={most} makes steps 0 to {most - 1}.",
            str(here()),
            f"Write max_tokens={first + 1} or more, or an earlier step.",
        )
    return frozen_steps(named)
