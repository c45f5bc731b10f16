"""What a graph is in one forward: the values of this page are what a lowering gives."""

from __future__ import annotations

from typing import Any, NamedTuple

from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site


class Save(NamedTuple):
    """A save in one forward: the axis along which several forwards' values are joined, or axes of a
    nested value, or Keys; None of one whose last is whole, a frozenset where they cannot be."""

    name: str
    node: Node
    axes: Any


class Keep(NamedTuple):
    """A value that later forwards will ask for, or the part of one that this forward holds.

    Attributes:
        known: the recorded node.
        value: the node of this forward.
        axis: that of the positions; None for a whole value.
        here: which of the value's positions this forward holds, by number, of how many in all.
    """

    known: Node
    value: Node
    axis: int | None = None
    here: tuple[int, ...] = ()
    of: int = 0


class Lowered(NamedTuple):
    """What a graph is in one forward.

    Attributes:
        writes: the edited sites; saves: those that have a value in this forward.
        keep: what later forwards will ask for.
        asks: what earlier forwards kept: the recorded node of each param.
        exact: whether another window of the same kind needs another graph.
        counted: whether it matters that values of all tokens so far begin with the text's first.
    """

    writes: tuple[tuple[Site, Node], ...]
    saves: list[Save]
    keep: list[Keep]
    asks: dict[Node, Node]
    exact: bool
    counted: bool
