"""A graph of a whole text, as one forward of a generation needs it.

Recorded is a graph as if prompt and new tokens went through the model at once; positions count
from the start of that text.  A forward with a cache holds a window of it, and this page gives the
graph that does there what the whole one does.  What a forward does not hold is left out of it; a
position that an earlier one held is read as it was then.

In: a graph, which axis of each site's value is that of the positions, a window.
Out: a graph for that forward, or a PartOfTextError on the user's line.
Never: guesses.  What an operation does along the positions is asked (`keeps`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from mlxgraph.errors import PartOfTextError
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import Window
from mlxgraph.graph.node import Node
from mlxgraph.graph.steps import bounds_of
from mlxgraph.graph.values import Slice, frozen_leaves
from mlxgraph.rewrite.fitting import About, Recorded
from mlxgraph.rewrite.lowered import Keep, Lowered, Save
from mlxgraph.rewrite.one_forward import WRITES, Forward

__all__ = ["About", "Keep", "Lowered", "Save", "Text"]


class Text:
    """A recorded graph, to be lowered to the forwards of one generation."""

    def __init__(self, graph: Graph, about: About):
        self._recorded = Recorded(graph, about)
        self._everywhere: dict[int, bool] = {}
        positions, steps, strided = _marks(self._recorded.nodes, about.numbers)
        self._strided = strided
        self._positions = sorted({p for p in positions if p >= 0})
        self._ends = sorted({-p for p in positions if p < 0})
        self._bounds = sorted(steps)
        last = [max(found, default=0) for found in (self._positions, self._ends)]
        self._last = (*last, float("inf") if strided else max(steps, default=1))

    @property
    def names_ends(self) -> bool:
        """Whether anything counts from the end of the text."""
        return bool(self._ends) or self._strided

    def is_settled(self, window: Window) -> bool:
        """Whether a window of one token, and every later one, comes after all that is named."""
        start, stop, length, step = window
        last, ends, steps = self._last
        return stop == length == start + 1 and start > last and length >= ends and step >= steps

    def key(self, window: Window) -> Any:
        """Equal for windows of one token that need the same graph, as far as it is not exact."""
        if window.stop - window.start != 1 or self._strided:
            return window
        at, ends, steps = self._positions, self._ends, self._bounds
        return (
            bisect_left(at, window.start),
            bisect_right(at, window.start),
            bisect_right(ends, window.length),
            bisect_right(steps, window.step),
            window.step == 0,
            window.stop == window.length,
        )

    def look_ahead(self, first: int, prompt: int, keep: bool = True) -> None:
        """Find what is wrong, and which values of earlier forwards later ones will ask for.

        Args: first: the position of the first token that is given; prompt: the length of the text
            when the last token of the prompt has been given; keep: whether later forwards are those
            of one text, so that what they will ask for can be kept.
        Raises: PartOfTextError.
        """
        length, wanted = self._recorded.about.length, dict.fromkeys(self._recorded.wanted)
        marks = {p for q in self._positions for p in (q, q + 1)}
        marks |= {prompt - 1 + s for s in (*self._bounds, 0, 1)} | {length - 1}
        for p in sorted(marks):
            if first <= p < prompt:
                window = Window(p, p + 1, prompt, 0)
            elif prompt <= p < length:
                window = Window(p, p + 1, p + 1, p - prompt + 1)
            else:
                continue
            try:
                wanted |= dict.fromkeys(self.at(window).asks.values())
            except PartOfTextError:
                if p >= prompt - 1:
                    raise
                continue  # the prompt's chunks may be cut elsewhere; each says so itself
        if keep:
            self._recorded.wanted = list(wanted)

    def is_the_same_everywhere(self, count: int) -> bool:
        """Whether forwards of so many tokens all need one graph, wherever in a text they are."""
        if count not in self._everywhere:
            self._everywhere[count] = self._is_the_same(count)
        return self._everywhere[count]

    def _is_the_same(self, count: int) -> bool:
        far = 1 << 20
        starts = {0, far} | {start for p in self._positions for start in (p, p + 1)}
        windows = [Window(start, start + count, start + count, 1) for start in starts]
        windows += [w._replace(length=w.length + n) for n in (1, *self._ends, far) for w in windows]
        if self._strided:
            return False
        first = None
        for window in sorted(windows):
            try:
                one = self.at(window)
            except PartOfTextError:
                return False
            first = first or one
            same = one.writes == first.writes and one.saves == first.saves
            if not same or one.exact or one.counted:
                return False
        return True

    def counts_from_the_end(self, start: int, stop: int, length: int) -> bool:
        """Whether it matters to a forward that the text is one token longer than `length`."""
        one, other = (self.at(Window(start, stop, end, 1)) for end in (length, length + 1))
        return one.writes != other.writes or one.saves != other.saves

    def at(self, window: Window) -> Lowered:
        """The graph in one forward.  Raises: PartOfTextError."""
        return Forward(self._recorded, window).lowered()


def _marks(
    nodes: Iterable[Node], numbers: Callable[[Node], Any]
) -> tuple[set[int], set[int], bool]:
    """Every whole number among indices, the bounds of steps, and whether some positions or steps
    are left out by turns: each window is then another."""
    positions: set[int] = set()
    steps: set[int] = set()
    slices = []
    for node in nodes:
        if node.op == ops.GETITEM or node.op in WRITES:
            index = node.args[1]
            for leaf in frozen_leaves(index):
                if type(leaf) is int:
                    positions.add(leaf)
                elif type(leaf) is Node:
                    positions.update(numbers(leaf) or ())
            parts = index if type(index) is tuple else (index,)
            slices += [part.value for part in parts if type(part) is Slice]
        elif node.op == ops.AT_STEPS:
            steps.update(bounds_of(node.args[0]))
            slices += [node.args[0].value] if type(node.args[0]) is Slice else []
    return positions, steps, any(by not in (None, 1) for _, _, by in slices)
