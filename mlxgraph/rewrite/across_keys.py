"""Operations on values with keys that are not entry by entry: over the heads, or over the keys.

A row of a pattern holds 0 for every key that comes later, in whichever forward.  So an operation
over the keys means the same in each where such an entry more changes nothing: a sum, a product with
the values, a softmax of scores.  That is asked (`About.over_keys`); a mean is none of them.

In: an operation, what its inputs are.  Out: what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.held import Both, Held, Plain, Refused, State, same, with_inputs
from mlxgraph.graph.node import Node, is_draw
from mlxgraph.rewrite.chunks import is_known
from mlxgraph.rewrite.fitting import SAME, Fitting

States = Mapping[Node, State]


def alike(one: Both, other: Both) -> bool:
    mine, theirs = one.keys, other.keys
    is_same = mine.same_positions(theirs) and same(mine.here, theirs.here)
    return is_same and same_rows(one, other)


def same_rows(one: Both, other: Both) -> bool:
    mine, theirs = one.rows, other.rows
    return mine.same_positions(theirs) and same(mine.here, theirs.here)


def main_of(states: States) -> Both:
    """Of several values the one that the others go along with."""
    found = [s for s in states.values() if isinstance(s, Both)]
    return max(found, key=lambda s: (len(s.rows.full), len(s.keys.full), s.rows.whole))


def across(node: Node, states: States, fit: Fitting) -> State:
    """An operation some of whose inputs are Both."""
    main = main_of(states)
    rows, keys = {}, {}
    for child, state in states.items():
        if isinstance(state, Both):
            if not alike(state, main):
                return Refused(node, "an operation on different positions", SAME)
            rows[child], keys[child] = state.rows.axis, (state.keys.axis, state.pad)
        elif isinstance(state, Held):
            other = main.keys if state.grown else main.rows
            if not (same(state.chosen, other.chosen) and same(state.here, other.here)):
                return Refused(node, "an operation on different positions", SAME)
            if state.grown:
                keys[child] = (state.axis, state.pad)
            else:
                rows[child] = state.axis
        elif not isinstance(state, Plain):
            return _refused(node)
    row = None if is_draw(node) else fit.about.keeps(node, rows)
    if row is None:
        return _refused(node)
    known = all(s.causal and s.pad is not None for s in states.values() if isinstance(s, Both))
    found = fit.about.over_keys(node, keys) if known else None
    key = fit.about.keeps(node, {child: axis for child, (axis, _) in keys.items()})
    if key is None and found is None or row in (key, found and found[0]):
        return _refused(node)
    inputs: Any = {c: s.node for c, s in states.items()}
    made = None if None in inputs.values() else with_inputs(node, inputs)
    if found is not None and found[0] is None:
        if made is None and main.rows.here:
            return _none_of_them(node)
        return main.rows._replace(node=made, axis=row, origin=node)
    axis = key if found is None else found[0]
    pad = None if found is None else found[1]
    assert axis is not None
    shown = main.rows._replace(axis=row), main.keys._replace(axis=axis)
    return Both(made, *shown, pad, pad is not None)


def over_a_row(node: Node, held: Mapping[Node, Held], states: States, fit: Fitting) -> State | None:
    """An operation over the keys of one row; None for any other."""
    first = next(iter(held.values()))
    keys = {child: (s.axis, s.pad if is_known(s.pad) else None) for child, s in held.items()}
    if not first.grown or all(pad is None for _, pad in keys.values()) or is_draw(node):
        return None
    if any(s.pad is not None and not is_known(s.pad) for s in held.values()):
        return None
    if not all(s.grown and same(s.here, first.here) for s in held.values()):
        return None
    found = fit.about.over_keys(node, keys)
    if found is None:
        return None
    inputs: Any = {c: s.node for c, s in states.items()}
    made = None if None in inputs.values() else with_inputs(node, inputs)
    if found[0] is not None:
        return first._replace(node=made, axis=found[0], pad=found[1], origin=node)
    return Plain(made) if made is not None else _none_of_them(node)


def _none_of_them(node: Node) -> Refused:
    return Refused(
        node,
        "an operation over keys that are not there yet",
        "Give a larger prefill_step_size, or take keys that each of its rows has.",
    )


def _refused(node: Node) -> Refused:
    return Refused(
        node,
        f"{ops.short(node.op)} over the rows or the keys of a value",
        "Scale it, index it by positions, `pattern[:, :, 2:5, 0]`, or save it and compute after"
        " the block.",
    )
