"""What each node of a recorded graph is in one forward of a generation.

In: what was recorded, a window.  Out: the graph of that forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.held import (
    BEYOND,
    LATER,
    PAST,
    Absent,
    Both,
    Held,
    Nest,
    Odd,
    Plain,
    Refused,
    State,
    Window,
    same,
    with_inputs,
)
from mlxgraph.graph.node import Node, is_draw, site_node, site_of, walk
from mlxgraph.graph.site import OUTPUT, SKIP, Site
from mlxgraph.graph.steps import takes_step
from mlxgraph.graph.values import frozen_leaves
from mlxgraph.rewrite import across_keys, both, chunks
from mlxgraph.rewrite.fitting import BY_WHERE, RESHAPE, SAME, Fitting, Recorded
from mlxgraph.rewrite.held_index import Chosen, chosen_by
from mlxgraph.rewrite.held_nested import nested
from mlxgraph.rewrite.lowered import Keep, Lowered, Save
from mlxgraph.rewrite.odd import odd

_FN = (
    "Write it with functions of mlx, which are recorded; or give it a position by name,"
    " `mg.apply(fn, h[:, 3])`."
)
WRITES = frozenset({ops.UPDATE, *ops.AT.values()})
_RESHAPES = ops.RESHAPES - {ops.RESHAPE_LIKE}


class Forward:
    """One lowering: what each node is in one window."""

    def __init__(self, recorded: Recorded, window: Window):
        self.recorded = recorded
        self.about = recorded.about
        self.window = window
        self.fit = Fitting(recorded, window)
        self.states: dict[Node, State] = {}

    def lowered(self) -> Lowered:
        for node in self.recorded.nodes:
            self.states[node] = chunks.padded(node, self._state(node))
        writes = []
        for site, node in self.recorded.graph.writes:
            written = self._written(site, node)
            if written is not None and written is not site_node(*site):
                writes.append((site, written))
        saves = [s for name, node in self.recorded.graph.saves for s in self._saved(name, node)]
        keep = [found for node in self.recorded.wanted for found in self._to_keep(node)]
        used = walk([*[n for _, n in writes], *[s.node for s in saves]])
        asks = {node: self.fit.asks[node] for node in used if node in self.fit.asks}
        return Lowered(tuple(writes), saves, keep, asks, self.fit.exact, self.fit.counted)

    # -- what comes out ---------------------------------------------------------------------------

    def _written(self, site: Site, node: Node) -> Node | None:
        state = self.states[node]
        if isinstance(state, Refused):
            raise self.fit.refusal(state)
        if isinstance(state, Absent):
            self.fit.check_absent(state, node)
            return None
        if isinstance(state, (Nest, Odd)):
            return state.node
        there = site._replace(port=OUTPUT) if site.port == SKIP else site
        whole = self._site(there, site_node(*there))
        if isinstance(whole, Both):
            found = both.written(node, state, whole, self.fit)
            return found if type(found) is Node else self._raise(found, node)  # type: ignore
        if not isinstance(whole, Held):
            if isinstance(state, Held):
                state = self.fit.plain(state, node)
            return state.node if isinstance(state, Plain) else None
        if isinstance(state, Held) and state.whole and state.same_positions(whole):
            return state.node
        fitted = self.fit.fitted(node, state, whole, node)
        if isinstance(fitted, (Refused, Absent)):
            self._raise(fitted, node)
            return None
        return fitted

    def _raise(self, state: Refused | Absent, node: Node) -> None:
        if isinstance(state, Refused):
            raise self.fit.refusal(state)
        self.fit.check_absent(state, node)

    def _saved(self, name: str, node: Node) -> list[Save]:
        state = self.states[node]
        if isinstance(state, Refused):
            raise self.fit.refusal(state)
        without = chunks.saved_without_keys(node, state, self.fit)
        if without is not None:
            return [Save(name, *without)]
        if isinstance(state, Absent) or state.node is None:
            return []
        axes: Any = state.axis if isinstance(state, Held) else None
        if isinstance(state, Both) or isinstance(state, Held) and state.grown:
            axes = chunks.to_join(state, self.fit)
        if isinstance(state, Nest):
            axes = state.axes
        elif isinstance(state, Odd):
            axes = state.grown
        if not self._is_fresh(state.node) and self._is_fresh(node):
            return []  # all that it is made of was there before
        return [Save(name, state.node, axes)]

    @staticmethod
    def _is_fresh(node: Node) -> bool:
        return any(below.op in (ops.SITE, ops.MX_FULL) for below in walk([node]))

    def _to_keep(self, node: Node) -> list[Keep]:
        state = self.states[node]
        if isinstance(state, Held) and state.grown:
            whole = state.is_complete and state.node is not None
            return [Keep(node, state.node)] if whole else []  # type: ignore[arg-type]
        if isinstance(state, Held) and state.node is not None and state.here:
            self.fit.exact = True  # a window further on holds others of its positions
            return [Keep(node, state.node, state.axis, tuple(state.here), len(state.full))]
        if isinstance(state, Plain) and state.node not in self.fit.asks:
            return [Keep(node, state.node)]
        return []

    # -- one node ---------------------------------------------------------------------------------

    def _state(self, node: Node) -> State:
        op = node.op
        if op == ops.SITE:
            return self._site(site_of(node), node)
        if op in ops.SOURCES:
            return Plain(node)
        if op == ops.AT_STEPS:
            steps, before, inside = node.args
            taken = inside if takes_step(steps, self.window.step) else before
            return Absent(BEYOND, 0, node) if type(taken) is not Node else self.states[taken]
        if op == ops.GRAD:
            return Refused(node, "a gradient", "Take it in a trace of the whole text.")
        if op in WRITES:
            return self._update(node)
        states = {child: self.states[child] for child in node.inputs}
        for kind in (Refused, Absent):
            found = [s for s in states.values() if isinstance(s, kind)]
            if found:
                beyond = [s for s in found if isinstance(s, Absent) and s.whose == BEYOND]
                return (beyond or found)[0]
        if any(isinstance(s, Nest) for s in states.values()):
            return nested(node, states, self.states, self.fit)
        if any(isinstance(s, Odd) for s in states.values()):
            return odd(node, states, self.about.kind)
        if any(isinstance(s, Both) for s in states.values()):
            return both.both(node, states, self.fit)
        if not any(isinstance(s, Held) for s in states.values()):
            return Plain(with_inputs(node, {c: s.node for c, s in states.items()}))  # type: ignore
        if op == ops.GETITEM:
            return self._part(node)
        if op == ops.ASTYPE_LIKE:
            return self._astype(node, states)
        if op in (ops.FULL_LIKE, ops.NORMAL_LIKE):
            return self._like(node, states)
        if op in ops.ELEMENTWISE or op == ops.BROADCAST_LIKE:
            return self._elementwise(node, states)
        if op in _RESHAPES or op == ops.RESHAPE_LIKE:
            return self._reshaped(node, states)
        return self._other(node, states)

    def _site(self, site: Site, node: Node) -> State:
        return self.fit.of_axes(node, node, self.about.axes(site))

    # -- indices ----------------------------------------------------------------------------------

    def _chosen(self, node: Node, held: Held, index: Any) -> Chosen | Absent | Refused:
        kind = self.about.kind(node.args[0])
        assert kind is not None
        found = chosen_by(node, held, index, len(kind[0]), self.window, self.about.numbers)
        self.fit.note(held, found)
        return found

    def _part(self, node: Node) -> State:
        held = self.states[node.args[0]]
        assert isinstance(held, Held)
        if self._has_nodes_held(node.args[1]):
            return Refused(node, "an index that the model computes", BY_WHERE)
        found = self._chosen(node, held, node.args[1])
        if isinstance(found, Absent):
            if found.whose == LATER and held.pad is not None:
                return chunks.later_key(node, held.pad, self.fit)
            return self.fit.earlier(node) if found.fixed and found.whose == PAST else found
        if isinstance(found, Refused):
            return found
        if found.part is None:
            return Plain(Node(ops.GETITEM, (held.node, found.local)))
        lowered = None if found.local is None else Node(ops.GETITEM, (held.node, found.local))
        return found.part._replace(node=lowered)

    def _has_nodes_held(self, index: Any) -> bool:
        inside = [leaf for leaf in frozen_leaves(index) if type(leaf) is Node]
        return any(not isinstance(self.states[leaf], Plain) for leaf in inside)

    def _update(self, node: Node) -> State:
        base, index, value = node.args
        held = self.states[base]
        if isinstance(held, (Refused, Absent)):
            return held
        given: State = self.states[value] if type(value) is Node else Plain(node)
        if isinstance(held, Both):
            if isinstance(given, Refused):
                return given
            return both.update(node, held, given, self.states, self.fit)
        if not isinstance(held, Held):
            return self._update_plain(node, held, given)
        if self._has_nodes_held(index):
            return Refused(node, "an index that the model computes", BY_WHERE)
        found = self._chosen(node, held, index)
        if isinstance(found, Refused):
            return found
        if isinstance(found, Absent) or found.local is None or held.node is None:
            return held._replace(origin=node)
        if isinstance(given, Absent):
            self.fit.check_absent(given, node)
            return held._replace(origin=node)
        part: Any = value
        if type(value) is Node:
            if found.part is None:
                fitted: Any = self.fit.plain(given, value)
                fitted = fitted.node if isinstance(fitted, Plain) else fitted
            else:
                fitted = self.fit.fitted(node, given, found.part, value)
            if isinstance(fitted, (Refused, Absent)):
                if isinstance(fitted, Absent):
                    self.fit.check_absent(fitted, node)
                    return held._replace(origin=node)
                return fitted
            part = fitted
        return held._replace(node=Node(node.op, (held.node, found.local, part)), origin=node)

    def _update_plain(self, node: Node, base: State, given: State) -> State:
        if isinstance(given, (Refused, Absent)):
            return given
        for child in node.inputs:
            if isinstance(self.states[child], (Refused, Absent)):
                return self.states[child]
        if isinstance(base, Odd):
            return odd(node, {c: self.states[c] for c in node.inputs}, self.about.kind)
        if isinstance(base, Nest):
            return Refused(node, "an index into a nested value", BY_WHERE)
        value = node.args[2]
        fitted = self.fit.plain(given, value) if type(value) is Node else given
        if not isinstance(fitted, Plain):
            return fitted
        inputs = {child: self.states[child].node for child in node.inputs}  # type: ignore
        if type(value) is Node:
            inputs[value] = fitted.node
        return Plain(with_inputs(node, inputs))  # type: ignore[arg-type]

    # -- values -----------------------------------------------------------------------------------

    def _main(self, states: Mapping[Node, State]) -> Held:
        """Of several values with positions the one that the others go along with."""
        helds = [s for s in states.values() if isinstance(s, Held)]
        return max(helds, key=lambda held: (len(held.full), held.whole))

    def _elementwise(self, node: Node, states: Mapping[Node, State]) -> State:
        main = self._main(states)
        if node.op == ops.BROADCAST_LIKE:
            like = states[node.args[1]]
            if not isinstance(like, Held):
                return self._other(node, states)
            main = like
        if main.node is None:
            return main._replace(origin=node)
        inputs = {}
        for child, state in states.items():
            fitted = self.fit.fitted(node, state, main, child)
            if isinstance(fitted, (Refused, Absent)):
                return fitted
            inputs[child] = fitted
        return main._replace(node=with_inputs(node, inputs), origin=node)

    def _astype(self, node: Node, states: Mapping[Node, State]) -> State:
        """Only the dtype of the second is looked at."""
        value, like = node.args
        state, other = states[value], states[like]
        if isinstance(state, Held) and state.node is None:
            return state._replace(origin=node)
        beside = other.node if other.node is not None else None  # type: ignore[union-attr]
        if beside is None:
            return Absent(BEYOND, 0, node)
        made = Node(node.op, (state.node, beside))  # type: ignore[union-attr]
        if isinstance(state, Held):
            return state._replace(node=made, origin=node)
        return Plain(made)

    def _like(self, node: Node, states: Mapping[Node, State]) -> State:
        held = self._main(states)
        if held.node is None:
            return held._replace(origin=node)
        inputs = {c: s.node for c, s in states.items()}
        return held._replace(node=with_inputs(node, inputs), origin=node)  # type: ignore[arg-type]

    def _reshaped(self, node: Node, states: Mapping[Node, State]) -> State:
        """A value in another shape, which is written with the number of its positions here."""
        if node.op == ops.RESHAPE_LIKE:
            value, like = (states[child] for child in node.args)
            if not (isinstance(value, Held) and isinstance(like, Held)):
                return self._other(node, states)
            alike = value.grown == like.grown and same(value.here, like.here)
            if not alike or not same(value.chosen, like.chosen):
                return Refused(node, "a reshape to different positions", SAME)
            if value.node is None or like.node is None:
                return like._replace(node=None, origin=node)
            if self._before(node.args[0], value.axis) != self._before(node.args[1], like.axis):
                return Refused(node, "a reshape that moves positions", RESHAPE)
            return like._replace(node=Node(node.op, (value.node, like.node)), origin=node)
        held = states[node.args[0]]
        kind = self.about.kind(node)
        if not isinstance(held, Held) or kind is None:
            return self._other(node, states)
        shape, before = kind[0], self._before(node.args[0], held.axis)
        places = [
            k
            for k, size in enumerate(shape)
            if size == len(held.full) and prod(shape[:k]) == before
        ]
        if not places:
            return self._mixing(node, states)
        axis = places[0] - len(shape)
        if held.node is None:
            return held._replace(axis=axis, origin=node)
        new = tuple(len(held.here) if k == places[0] else n for k, n in enumerate(shape))
        self.fit.exact = self.fit.exact or held.grown or len(held.here) != 1
        made = Node(ops.MX_RESHAPE, (held.node, new))
        return held._replace(node=made, axis=axis, origin=node)

    def _before(self, node: Node, axis: int) -> int:
        kind = self.about.kind(node)
        assert kind is not None
        return prod(kind[0][: len(kind[0]) + axis])

    def _other(self, node: Node, states: Mapping[Node, State]) -> State:
        held = {child: s for child, s in states.items() if isinstance(s, Held)}
        first = next(iter(held.values()))
        alike = all(s.grown == first.grown and same(s.chosen, first.chosen) for s in held.values())
        if alike and not is_draw(node) or node.op == ops.CALL and alike:
            axis = self.about.keeps(node, {child: s.axis for child, s in held.items()})
            if axis is not None:
                pad = None if first.pad is None else chunks.UNKNOWN
                inputs: Any = {c: s.node for c, s in states.items()}
                made = None if None in inputs.values() else with_inputs(node, inputs)
                return first._replace(node=made, axis=axis, origin=node, pad=pad)
            over = across_keys.over_a_row(node, held, states, self.fit)
            if over is not None:
                return over
        return self._mixing(node, states)

    def _mixing(self, node: Node, states: Mapping[Node, State]) -> State:
        inputs = {}
        for child, state in states.items():
            plain = self.fit.plain(state, node)
            if isinstance(plain, Refused) and node.op == ops.APPLY:
                return plain._replace(what="a function that the graph cannot look into", advice=_FN)
            if not isinstance(plain, Plain):
                return plain
            inputs[child] = plain.node
        return Plain(with_inputs(node, inputs))
