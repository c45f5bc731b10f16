"""What goes together in one forward: values position by position, and what it does not hold.

In: what was recorded, a window, what each node is in it.  Out: nodes of that forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mlxgraph.errors import PartOfTextError
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import (
    BEYOND,
    LATER,
    Absent,
    Along,
    Both,
    Held,
    Nest,
    Odd,
    Plain,
    Refused,
    State,
    Window,
    cut,
    same,
)
from mlxgraph.graph.nested import is_container
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.rewrite.held_index import Chosen


class About(NamedTuple):
    """What has to be known of a recorded graph beside itself.

    Attributes:
        kind: a node's shape and dtype as recorded, or None where it is no array.
        axes: a site's value with the axis of the positions (from the last) in place of each array,
            an Along where one is of all tokens so far, None where it has none, a frozenset of
            those that grow in another way.
        keeps: the axis of a node's value that goes along with these axes of its inputs; None
            where it mixes positions.
        numbers: the whole numbers of an array from outside, or None.
        length: of the whole text, as recorded.
        over_keys: what an operation does along axes of keys of its inputs, each with what they
            hold for later ones: the axis of its value that goes along with them (None where that
            has none) and what it holds there; None where a later key changes what comes out.
    """

    kind: Callable[[Node], tuple[tuple[int, ...], str] | None]
    axes: Callable[[Site], Any]
    keeps: Callable[[Node, Mapping[Node, int]], int | None]
    numbers: Callable[[Node], Any]
    length: int
    over_keys: Callable[
        [Node, Mapping[Node, tuple[int, float | None]]], tuple[int | None, float] | None
    ]


class Recorded:
    """A recorded graph, and what is known of it.

    Attributes: wanted: the values of earlier forwards that later ones ask for.
    """

    def __init__(self, graph: Graph, about: About):
        self.graph = graph
        self.about = about
        self.nodes = graph.nodes()
        self.wanted: list[Node] = []
        self._params: dict[Node, Node] = {}

    def line(self, node: Node) -> str:
        """The user's line of a node, as errors say it."""
        note = self.graph.notes.get(node)
        return (note and note.where) or "an edit"

    def kept(self, node: Node) -> Node:
        """The param that stands for a value of an earlier forward."""
        if node not in self._params:
            kind = self.about.kind(node)
            assert kind is not None
            self._params[node] = Node(ops.PARAM, (f"earlier {len(self._params)}", *kind))
        return self._params[node]


class Fitting:
    """How values are fitted to each other in one window.

    Attributes: asks: the recorded node of each param that stands for an earlier forward's value;
        exact: whether another window of the same kind needs another graph; counted: whether
            it matters that values of all tokens so far begin with the text's first.
    """

    def __init__(self, recorded: Recorded, window: Window):
        self.recorded = recorded
        self.about = recorded.about
        self.window = window
        self.exact = self.counted = False
        self.asks: dict[Node, Node] = {}

    def of_axes(self, node: Node, origin: Node, axes: Any) -> State:
        if is_container(axes):
            return Nest(node, axes)
        if isinstance(axes, frozenset):
            return Odd(node, origin, axes)
        if axes is None:
            return Plain(node)
        start, stop, length, _ = self.window
        full = range(self.about.length)

        def held(axis: int, here: range, **more: Any) -> Held:
            return Held(node, axis, range(length), here, full, True, True, False, origin, **more)

        if not isinstance(axes, Along):
            return held(axes, range(start, stop))
        keys = held(axes.grown, range(stop), grown=True)
        if axes.held is None:
            return keys
        return Both(node, held(axes.held, range(start, stop)), keys, axes.pad, True)

    def note(self, held: Held, found: Chosen | Absent | Refused) -> None:
        """What an index into a value says about other windows."""
        chosen = found if isinstance(found, Chosen) else None
        self.exact = self.exact or not held.whole or (chosen is not None and chosen.exact)
        is_all = chosen is not None and chosen.part is not None and chosen.part.whole
        self.counted = self.counted or (held.grown and not is_all)

    def earlier(self, node: Node) -> State:
        """A value that an earlier forward held."""
        kept = self.recorded.kept(node)
        self.asks[kept] = node
        return Plain(kept)

    def plain(self, state: State, node: Node) -> State:
        """A value whose positions are of no account any more: all of them, from one forward."""
        if isinstance(state, Both):
            return Refused(node, "an operation over all positions", _OVER)
        if not isinstance(state, Held):
            return state
        if state.is_complete and state.node is not None:
            return Plain(state.node)
        if not state.fixed:
            return Refused(node, "an operation over all positions", _OVER)
        if len(state.chosen) < len(state.full):
            return Absent(BEYOND, len(state.chosen), node)
        if state.here:
            return Refused(node, "an operation over positions of two forwards", _CHUNKS)
        if state.chosen[-1] >= self.window.stop:
            return Absent(LATER, state.chosen[-1], node)
        return self.earlier(state.origin)

    def fitted(self, node: Node, given: State, like: Held, value: Node) -> Any:
        """A node of a value that goes together with `like`, position by position."""
        if isinstance(given, (Refused, Absent)):
            return given
        if isinstance(given, (Odd, Nest, Both)):
            return Refused(node, "a value that grows with the text in its own way", BY_WHERE)
        if isinstance(given, Held):
            if given.same_positions(like) and same(given.here, like.here):
                return given.node
            if len(given.full) > 1:
                return Refused(node, "an operation on different positions", SAME)
            given = self.plain(given, value)
            if not isinstance(given, Plain):
                return given
        kind = self.about.kind(value)
        size = 1 if kind is None or len(kind[0]) < -like.axis else kind[0][like.axis]
        if size == 1 and len(like.full) != 1:
            return given.node
        if size != len(like.full):
            return given.node if size == 1 else Refused(node, "values of other positions", SAME)
        chosen, full = list(like.chosen), list(like.full)
        if len(chosen) != len(full) and full[: len(chosen)] != chosen:
            return Refused(node, "an array for positions that the text does not have yet", SAME)
        if len(like.here) == len(full):
            return given.node
        self.exact = True
        self.counted = self.counted or like.grown
        return cut(given.node, like.axis, list(like.here))

    def refusal(self, state: Refused) -> PartOfTextError:
        where = self.recorded.line(state.node)
        return PartOfTextError(
            f"{state.what} has no meaning in a forward that holds a part of the text", where,
            state.advice,
        )  # fmt: skip

    def check_absent(self, state: Absent, node: Node) -> None:
        """A value that is written and that this forward does not have; one that the text does not
        have yet is left out."""
        if state.whose == BEYOND:
            return
        line = self.recorded.line(state.node)
        if state.whose == LATER:
            raise PartOfTextError(
                f"token {state.position} is needed before it is there: this forward ends at token"
                f" {self.window.stop - 1}",
                line,
                "mlx-lm gives the prompt in chunks, its last token on its own: read a position that"
                " comes before those that are written.",
            )
        raise PartOfTextError(
            f"token {state.position} was in an earlier forward, which kept no value of it",
            line,
            "Read it by its position from the start of the text, `h[:, 3]`, and of a pattern by its"
            " keys too, `pattern[:, :, 3, 1]`; or save it and use it in another generation.",
        )


BY_WHERE = "Write positions as whole numbers, lists of them or slices."
_OVER = (
    "A later token would change what an earlier one was given. Take positions that are named,"
    " `h[:, 2:5].mean(axis=1)`, or save the values and compute after the block."
)
_CHUNKS = (
    "mlx-lm gives the prompt in chunks, its last token on its own: give a larger"
    " prefill_step_size, or take positions that one forward holds."
)
SAME = "Give an array for each position by name, `h[:, 2:5] += v`, or one that broadcasts."
RESHAPE = "Keep the axis of the positions apart: reshape the axes after it."
