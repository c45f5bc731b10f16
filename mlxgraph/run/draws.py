"""The draws of one run: each begins where its number says, whatever else is computed beside it.

So a value that was looked at inside a block is the value that is saved at its end, two draws are
two, and a draw is the one that plain MLX would have made in the order in which they were written.
What the model draws itself has a state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mlxgraph.graph.node import Node, is_draw
from mlxgraph.mlx_facts import random_state


class Draws:
    """The numbered draws of a run, from the random state as it is when it begins."""

    def __init__(self, nodes: Iterable[Node]):
        self._start = state = random_state.current()
        self._states = {}
        done = 1
        for number in sorted({node.args[0] for node in nodes if is_draw(node)}):
            state = self._states[number] = random_state.after(state, number - done)
            done = number
        self._last = done
        self._end = random_state.after(state, 1)

    def begin(self) -> None:
        """From here on what draws without a number, the model for one, has its own state."""
        random_state.put(random_state.fork(self._start))

    def make(self, node: Node, draw: Callable[[], Any]) -> Any:
        """One draw.  Returns: what `draw` gives."""
        before = random_state.current()
        random_state.put(self._states[node.args[0]])
        value = draw()
        if node.args[0] == self._last:
            self._end = random_state.current()
        random_state.put(before)
        return value

    def finish(self) -> None:
        """Leave the state as it is after the last of the draws."""
        random_state.put(self._end)

    def undo(self) -> None:
        """Leave the state as it was."""
        random_state.put(self._start)
