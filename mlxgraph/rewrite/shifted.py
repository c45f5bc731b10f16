"""A graph whose indices into positions are counted from another one.

In: a graph, and which parts of which indices are of positions.  Out: the graph from there on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlxgraph.graph.base import Moved
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import numbered, with_inputs
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import FrozenList, Slice


class Move(NamedTuple):
    """The second argument of a node, an index or a shape, as it is from some position on.

    Attributes: parts: of it; at: the part that is of positions; taken: these, in the whole text;
        one: whether it is a single one.
    """

    parts: list[Any]
    at: int
    taken: Sequence[int]
    one: bool

    def __call__(self, start: int) -> tuple:
        parts = list(self.parts)
        if type(parts[self.at]) is int or self.one:
            parts[self.at] = self.taken[0] - start
        else:
            parts[self.at] = _sliced(self.taken, start)
        return tuple(parts)


def _sliced(taken: Sequence[int], start: int) -> Any:
    if not isinstance(taken, range):
        return FrozenList(tuple([position - start for position in taken]))
    if taken.step == 1:
        return Slice(taken[0] - start, taken[-1] + 1 - start, None)
    if taken.step > 0:
        return Slice(taken[0] - start, taken[-1] + 1 - start, taken.step)
    return numbered([position - start for position in taken])


class Shift:
    """A graph that can be done to a part of the text.

    Attributes:
        graph: as it was recorded, on the whole text.
        first: the first position that anything reads or writes; the text's length for a graph that
            is of none.
    """

    __slots__ = ("graph", "first", "_nodes", "_moves")

    def __init__(self, graph: Graph, first: int, nodes: list[Node], moves: dict[Node, Move]):
        self.graph = graph
        self.first = first
        self._nodes = nodes
        self._moves = moves

    def at(self, start: int) -> Graph:
        """The same graph on a forward of the positions from `start` on.

        Positions that are given by params or numbers are whole numbers in it, those of this run;
        constants and notes are the graph's own.
        Args: start: at most `first`.
        """
        if not 0 <= start <= self.first:
            raise ValueError(f"the graph is concerned with position {self.first}, before {start}")
        if not start or not self._moves:
            return self.graph
        new: dict[Node, Node] = {}
        for node in self._nodes:
            there = node
            if any(new[child] is not child for child in node.inputs):
                there = with_inputs(node, new)
            move = self._moves.get(node)
            if move is not None:
                there = Node(there.op, (there.args[0], move(start), *there.args[2:]), there.kwargs)
            new[node] = there
        graph = self.graph
        return graph.replace(
            writes=[(site, new[node]) for site, node in graph.writes],
            saves=[(name, new[node]) for name, node in graph.saves],
            notes=Moved(graph.notes, {after: before for before, after in new.items()}),
        )
