"""A graph of a whole text, on a forward that holds the text from some position on.

In a causal model a forward on the tokens s..L, with keys and values of the tokens before as they
are without edits, computes what the whole forward would, as long as no edit and no read is of a
position before s.  Every index into positions is then counted from s.

In: a resolved graph, which axis of each site's value is that of the positions, the text's length.
Out: the first position that the graph is concerned with, and the graph from there on.
Never: guesses.  Positions have to be named by every use of a value that has them; of values of all
tokens so far, as an attention with a cache sees keys, nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import FULL, Along
from mlxgraph.graph.nested import entry, is_container
from mlxgraph.graph.node import Node, is_number, site_node, site_of
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import FrozenList, Slice
from mlxgraph.rewrite.held_index import every_axis, place
from mlxgraph.rewrite.shift_views import (
    PERMUTES,
    RESHAPES,
    Text,
    Unsure,
    permuted,
    reshaped,
    split_part,
)
from mlxgraph.rewrite.shifted import Move, Shift

__all__ = ["Shift", "shiftable"]

Numbers = Callable[[Node], Any]
_UPDATES = frozenset({ops.UPDATE, *ops.AT.values()})
_NEVER = frozenset({ops.GRAD, ops.AT_STEPS})


class _Nest(NamedTuple):
    """A nested value, unwritten but for positions of its arrays."""

    axes: Any
    value: Any
    clean: Node


_State = Text | _Nest | None  # None: a value without positions, the same in either forward


def shiftable(
    graph: Graph,
    axes: Callable[[Site], Any],
    values: Mapping[Site, Any],
    length: int,
    number: Numbers,
) -> Shift | None:
    """How a graph is done to the text from a position on; None where that is not sure.

    Args:
        graph: resolved, nothing deferred.
        axes: a site's value with the axis of the positions (from the last) in place of each
            array: as `run.along` finds them.
        values: what each site's value looks like in the whole forward, as a census has them.
        length: of the text.
        number: the whole number, or numbers, that a node of an index is in this run, or None.
    """
    if graph.then:
        return None
    following = _Following(axes, values, length, number)
    nodes = graph.nodes()
    try:
        for node in nodes:
            following.follow(node)
        for site, node in graph.writes:
            following.check_written(site, node)
        for _, node in graph.saves:
            following.check_saved(node)
    except Unsure:
        return None
    return Shift(graph, following.first, nodes, following.moves)


class _Following:
    """What each node is of, as far as positions go."""

    def __init__(
        self,
        axes: Callable[[Site], Any],
        values: Mapping[Site, Any],
        length: int,
        number: Numbers,
    ):
        self._axes = axes
        self._values = values
        self._length = length
        self._number = number
        self.states: dict[Node, _State] = {}
        self.moves: dict[Node, Move] = {}
        self.first = length

    # -- what comes out ---------------------------------------------------------------------------

    def check_written(self, site: Site, node: Node) -> None:
        state = self.states[node]
        if state is None or state.clean is not site_node(*site):
            raise Unsure  # the whole of it is written

    def check_saved(self, node: Node) -> None:
        state = self.states[node]
        if state is not None and not (isinstance(state, Text) and state.grown):
            raise Unsure

    # -- one node ---------------------------------------------------------------------------------

    def follow(self, node: Node) -> None:
        """Enter what a node is.  Raises: Unsure."""
        self.states[node] = self._state(node)

    def _state(self, node: Node) -> _State:
        op = node.op
        if op == ops.SITE:
            return self._site(node)
        if op in _NEVER:
            raise Unsure
        states = self.states
        if all(states[child] is None for child in node.inputs):
            return None
        base = states.get(node.args[0]) if type(node.args[0]) is Node else None
        if isinstance(base, _Nest):
            return self._of_nest(node, base)
        if isinstance(base, Text):
            if op == ops.GETITEM:
                return self._part(node, base)
            if op in _UPDATES:
                return self._update(node, base)
            if op in PERMUTES:
                return permuted(node, base)
            if op in RESHAPES:
                return self._reshaped(node, base)
            if op == ops.SPLIT_PART:
                return split_part(node, base)
        return self._other(node)

    def _site(self, node: Node) -> _State:
        site = site_of(node)
        if site not in self._values:
            raise Unsure
        return self._of(self._axes(site), self._values[site], node)

    def _of(self, axes: Any, value: Any, clean: Node) -> _State:
        if is_container(value):
            return _Nest(axes, value, clean)
        grown = isinstance(axes, Along) and axes.held is None
        axis = axes
        if isinstance(axes, Along):
            axis = axes.grown if axes.held is None else axes.held
        if type(axis) is not int or not hasattr(value, "shape"):
            raise Unsure  # without positions, or with several axes of them: of what, nobody knows
        shape = tuple(value.shape)
        if shape[axis] != self._length or -axis == len(shape):
            raise Unsure  # without rows before them, positions may stand in another order
        return Text(axis + len(shape), shape, clean, grown)

    def _of_nest(self, node: Node, base: _Nest) -> _State:
        if node.op == ops.ITEM:
            key = node.args[1]
            try:
                inner, axes = entry(base.value, key), entry(base.axes, key)
            except (LookupError, TypeError, AttributeError):
                raise Unsure from None
            return self._of(axes, inner, Node(ops.ITEM, (base.clean, key)))
        if node.op == ops.PUT and type(node.args[2]) is Node:
            state = self.states[node.args[2]]
            if state is not None and state.clean is Node(ops.ITEM, (base.clean, node.args[1])):
                return base
        raise Unsure

    def _other(self, node: Node) -> _State:
        """An operation on values of positions that is neither an index nor a view."""
        found: list[Text] = []
        for child in node.inputs:
            state = self.states[child]
            if isinstance(state, _Nest):
                raise Unsure
            if state is not None:
                found.append(state)
            elif not is_number(child):
                found.append(_PLAIN)
        if node.op == ops.RESHAPE_LIKE:
            return self._reshaped_back(node)
        if node.op == ops.ASTYPE_LIKE:
            state = self.states[node.args[0]]
            return state._replace(clean=None) if isinstance(state, Text) else None
        texts = [state for state in found if state is not _PLAIN]
        if all(state.grown for state in texts):
            return None
        first = texts[0]
        alike = all((s.axis, s.shape, s.grown) == (first.axis, first.shape, False) for s in found)
        if node.op in ops.ELEMENTWISE and alike:
            return first._replace(clean=None)
        raise Unsure

    # -- indices ----------------------------------------------------------------------------------

    def _index(self, base: Text, index: Any) -> tuple[list[Any], int]:
        """The parts of an index, one for each axis, and which of them is of positions."""
        given = every_axis(index, len(base.shape))
        if given is None:
            raise Unsure
        at = place(given, base.axis)
        parts = list(given)
        for k, part in enumerate(given):
            if type(part) is Node:
                known = self._number(part)
                if known is None and (k == at or not _is_of_one_axis(part)):
                    raise Unsure
                parts[k] = known if k == at else part
            elif type(part) is FrozenList and any(type(n) is not int for n in part.value):
                raise Unsure  # a mask is of several axes
        return parts, at

    def _taken(self, parts: list[Any], at: int) -> tuple[Sequence[int], bool]:
        """The positions that an index takes, and whether it is by a single number."""
        part, length = parts[at], self._length
        if type(part) is int:
            if not -length <= part < length:
                raise Unsure
            return (part % length,), True
        if type(part) is Slice:
            bounds = [self._number(b) if type(b) is Node else b for b in part.value]
            pairs = zip(bounds, part.value, strict=True)
            if any((b is None and given is not None) or _is_odd(b) for b, given in pairs):
                raise Unsure
            taken: Sequence[int] = range(length)[slice(*bounds)] if bounds[2] != 0 else ()
        else:
            listed = part.value if type(part) is FrozenList else part
            if any(type(n) is not int or not -length <= n < length for n in listed):
                raise Unsure
            taken = [n % length for n in listed]
        if not len(taken):
            raise Unsure
        return taken, False

    def _part(self, node: Node, base: Text) -> _State:
        parts, at = self._index(base, node.args[1])
        if parts[at] == FULL:
            shape, axis = self._left(base, parts, at)
            clean = None if base.clean is None else Node(ops.GETITEM, (base.clean, node.args[1]))
            return Text(axis, shape, clean, base.grown)
        if not base.grown:
            self._move(node, parts, at)
        return None

    def _left(self, base: Text, parts: list[Any], at: int) -> tuple[tuple[int, ...], int]:
        """The shape that an index of all positions leaves, and the axis of these."""
        listed = [k for k, p in enumerate(parts) if type(p) in (Node, FrozenList)]
        if len(listed) > 1 or (listed and any(type(p) is int for p in parts)):
            raise Unsure
        shape: list[int] = []
        axis, sizes = 0, iter(base.shape)
        for k, part in enumerate(parts):
            size = 1 if part is None else next(sizes)
            if k == at:
                axis = len(shape)
            if type(part) is Slice:
                if any(type(bound) is Node for bound in part.value) or part.value[2] == 0:
                    raise Unsure
                size = len(range(size)[slice(*part.value)])
            elif type(part) is FrozenList:
                size = len(part.value)
            elif type(part) is Node:
                dims = part.args[1] if part.op in (ops.CONSTANT, ops.PARAM) else ()
                if dims:  # an array of numbers; of a single number the axis goes
                    raise Unsure
                continue
            elif part is not None:
                continue
            shape.append(size)
        return tuple(shape), axis

    def _update(self, node: Node, base: Text) -> _State:
        _, index, value = node.args
        parts, at = self._index(base, index)
        given = self.states[value] if type(value) is Node else None
        if parts[at] == FULL:
            part = None if base.clean is None else Node(ops.GETITEM, (base.clean, index))
            if node.op != ops.UPDATE or given is None or given.clean is not part or part is None:
                raise Unsure  # every position is written
            return base
        if given is not None:
            raise Unsure
        self._move(node, parts, at, base.grown)
        return base

    def _move(self, node: Node, parts: list[Any], at: int, stays: bool = False) -> None:
        """Note which positions an index is of."""
        taken, one = self._taken(parts, at)
        last = taken[-1] if isinstance(taken, range) else min(taken)
        self.first = min(self.first, taken[0], last)
        if not stays:
            self.moves[node] = Move(parts, at, taken, one)

    # -- views ------------------------------------------------------------------------------------

    def _reshaped(self, node: Node, base: Text) -> _State:
        made, literal = reshaped(node, base, self._length)
        if literal is not None and not base.grown:
            self.moves[node] = Move(list(node.args[1]), literal, (self._length,), True)
        return made

    def _reshaped_back(self, node: Node) -> _State:
        """`reshape_like(changed, x)`, where what changed was a reshape of x."""
        changed, like = (self.states[child] for child in node.args)
        if not isinstance(changed, Text):
            if changed is None and isinstance(like, Text):
                raise Unsure
            return None
        was, base = changed.clean, like.clean if isinstance(like, Text) else None
        if was is None or base is None or was.op not in RESHAPES or was.args[0] is not base:
            raise Unsure
        return like


_PLAIN = Text(-1, (), None)  # stands for a value without positions that is no number


def _is_odd(bound: Any) -> bool:
    return bound is not None and type(bound) is not int


def _is_of_one_axis(part: Node) -> bool:
    """Whether an array in an index is sure to be of whole numbers: a mask is of several axes."""
    return part.op == ops.CONSTANT and "int" in part.args[2]
