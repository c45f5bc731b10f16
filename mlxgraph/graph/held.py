"""What one forward of a generation holds of a recorded value.

A graph is recorded as if the whole text, prompt and new tokens, went through the model at once.
A forward of a generation holds a window of it.  Every node then stands for one of these:

    Plain    a value without positions: it is the same operation in every forward
    Held     a value with an axis of positions, of which this forward holds some
    Both     a value with an axis of positions, and one of all tokens so far
    Odd      a value that grows with the text in some way of its own: it can be scaled and saved
    Nest     a tuple, list or dict of such
    Absent   a position that this forward does not hold: an earlier one's, a later one's, or none's
    Refused  what has no meaning here; an error, once something that runs needs it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlxgraph.graph import ops
from mlxgraph.graph.nested import is_a_leaf
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import FULL, FrozenList, Slice, map_frozen

PAST, LATER, BEYOND = "past", "later", "beyond"


class Window(NamedTuple):
    """The tokens [start, stop) of a text that has `length` tokens by the end of this step."""

    start: int
    stop: int
    length: int
    step: int


@dataclass(frozen=True)
class Along:
    """The axes of an array, counted from the last, one of which is of all tokens so far.

    Attributes:
        held: that of the forward's own tokens, or None.
        grown: that of all tokens so far, from the text's first.
        pad: what such a value holds where a later token is meant, or None where that is not known.
    """

    held: int | None
    grown: int
    pad: float | None = None


is_a_leaf(Along)


class Held(NamedTuple):
    """A value with an axis of positions.

    Attributes:
        node: the value of this forward; None where it holds no position of it.
        axis: counted from the last one, -1.
        chosen: the text's positions that the value is of, as far as the text has come.
        here: which of `chosen` this forward holds, by their number.
        full: `chosen` as it was recorded, on the whole text.
        whole: whether it is of all positions, `chosen` of the text itself.
        anchored: whether `chosen` only grows at its end as the text does.
        fixed: whether it does not grow once the text has `full`.
        origin: the node as it was recorded.
        grown: whether a forward holds all of the text so far, as keys from a cache are.
        pad: of such a value what it holds for later tokens, or None where that is not known.
    """

    node: Node | None
    axis: int
    chosen: Sequence[int]
    here: Sequence[int]
    full: Sequence[int]
    whole: bool
    anchored: bool
    fixed: bool
    origin: Node
    grown: bool = False
    pad: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether this forward holds all that was recorded of it."""
        return len(self.here) == len(self.chosen) == len(self.full) > 0

    def same_positions(self, other: Held) -> bool:
        """Whether two values are of the same positions, one by one."""
        return (self.axis, self.grown) == (other.axis, other.grown) and same(
            self.chosen, other.chosen
        )


class Both(NamedTuple):
    """A value with an axis of positions and one of all tokens so far: an attention's pattern.

    Attributes:
        node: the value of this forward; None where it holds nothing of it.
        rows, keys: its two axes, each as of a value with that one alone.
        pad: what it holds for keys that a forward has not seen, or None where that is not known.
        causal: whether it holds what the model itself has where a key is later than its query.
    """

    node: Node | None
    rows: Held
    keys: Held
    pad: float | None
    causal: bool


class Plain(NamedTuple):
    """A value without an axis of positions."""

    node: Node


class Odd(NamedTuple):
    """A value that grows with the text along axes (from the last) that are not its positions."""

    node: Node
    origin: Node
    grown: frozenset[int]


class Nest(NamedTuple):
    """A nested value; `axes` has its form, with what `About.axes` says in place of each array."""

    node: Node
    axes: Any


class Absent(NamedTuple):
    """A position that this forward does not hold.

    Attributes: whose it is; node: what asks for it; fixed: whether every longer text means the
        same one.
    """

    whose: str
    position: int
    node: Node
    fixed: bool = False


class Refused(NamedTuple):
    """What is wrong with a node, and what to write instead."""

    node: Node
    what: str
    advice: str


State = Held | Plain | Both | Odd | Nest | Absent | Refused


def same(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sequences are of the same numbers."""
    if isinstance(one, range) and isinstance(other, range):
        return one == other
    return list(one) == list(other)


def cut(node: Node, axis: int, numbers: Sequence[int]) -> Node:
    """A part of a value along one axis, counted from the last."""
    after = (FULL,) * (-axis - 1)
    return Node(ops.GETITEM, (node, (Ellipsis, numbered(numbers), *after)))


def numbered(numbers: Sequence[int]) -> Any:
    """Numbers as a part of an index: a slice where they follow each other."""
    first, count = numbers[0], len(numbers)
    if list(numbers) == list(range(first, first + count)):
        return Slice(first, first + count, None)
    return FrozenList(tuple(numbers))


def with_inputs(node: Node, inputs: dict[Node, Node]) -> Node:
    """The same operation on other nodes."""
    if all(inputs[child] is child for child in node.inputs):
        return node

    def moved(value: Any) -> Any:
        return inputs[value] if type(value) is Node else value

    args = tuple([map_frozen(a, moved) for a in node.args])
    kwargs = tuple([(name, map_frozen(a, moved)) for name, a in node.kwargs])
    return Node(node.op, args, kwargs)
