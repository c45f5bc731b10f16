"""Values with an axis of positions and one of all tokens so far: an attention's scores and pattern.

A forward holds the rows of its own tokens, and in each of them a key for every token so far.  Both
axes are indexed by positions that count from the start of the text.  What has no value in a forward
is a key later than its tokens: there the model's own attention is masked, and stays so.  An edit is
made where the key is not later than its query, whatever else is written; so it does not matter in
which chunks a prompt comes.

In: an operation on one, what its inputs are.  Out: what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlxgraph.graph import ops
from mlxgraph.graph.held import (
    BEYOND,
    LATER,
    PAST,
    Absent,
    Both,
    Held,
    Plain,
    Refused,
    State,
    same,
    with_inputs,
)
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import DType, frozen_leaves
from mlxgraph.rewrite.across_keys import across, alike, main_of, same_rows
from mlxgraph.rewrite.chunks import UNKNOWN, filled, unknown
from mlxgraph.rewrite.fitting import BY_WHERE, SAME, Fitting
from mlxgraph.rewrite.held_index import Chosen, chosen_by, ends, every_axis, place, those

States = Mapping[Node, State]
_LIKES = frozenset({ops.FULL_LIKE, ops.NORMAL_LIKE})


def both(node: Node, inputs: States, fit: Fitting) -> State:
    """What an operation is, some of whose inputs are Both.  Args: inputs: their states."""
    base = inputs.get(node.args[0]) if node.args and type(node.args[0]) is Node else None
    if node.op == ops.GETITEM and isinstance(base, Both):
        return _part(node, base, inputs, fit)
    if node.op == ops.ASTYPE_LIKE:
        return _astype(node, inputs)
    if node.op in _LIKES:
        return _elementwise(node, inputs, fit)
    if node.op == ops.BROADCAST_LIKE and isinstance(inputs[node.args[1]], Both):
        return _elementwise(node, inputs, fit)
    if node.op in ops.ELEMENTWISE:
        return _elementwise(node, inputs, fit)
    return across(node, inputs, fit)


# -- indices --------------------------------------------------------------------------------------


class _Where(NamedTuple):
    """What an index chooses along the two axes."""

    rows: Chosen | Absent
    keys: Chosen | Absent
    local: tuple | None  # the index as it is in this forward; None where it holds nothing of it


def _where(node: Node, base: Both, index: Any, states: States, fit: Fitting) -> _Where | Refused:
    kind = fit.about.kind(node.args[0])
    assert kind is not None
    ndim = len(kind[0])
    if any(type(n) is Node and not isinstance(states[n], Plain) for n in frozen_leaves(index)):
        return Refused(node, "an index that the model computes", BY_WHERE)
    found: list[Chosen | Absent] = []
    for held in (base.rows, base.keys):
        one = chosen_by(node, held, index, ndim, fit.window, fit.about.numbers)
        if isinstance(one, Refused):
            return one
        fit.note(held, one)
        found.append(one)
    rows, keys = found
    parts = every_axis(index, ndim)
    assert parts is not None
    at_rows, at_keys = (place(parts, ndim + held.axis) for held in (base.rows, base.keys))
    local = None
    if isinstance(rows, Chosen) and isinstance(keys, Chosen) and rows.local and keys.local:
        parts[at_rows], parts[at_keys] = rows.local[at_rows], keys.local[at_keys]
        local = tuple(parts)
    return _Where(rows, keys, local)


def _part(node: Node, base: Both, states: States, fit: Fitting) -> State:
    found = _where(node, base, node.args[1], states, fit)
    if isinstance(found, Refused):
        return found
    rows, keys, local = found
    both_one = not any(isinstance(one, Chosen) and one.part is not None for one in (rows, keys))
    if isinstance(rows, Absent):
        if isinstance(keys, Absent) and keys.whose == BEYOND:
            return keys
        named = both_one or isinstance(keys, Chosen) and _is_before(keys, rows.position)
        return fit.earlier(node) if named and rows.fixed and rows.whose == PAST else rows
    made = None if local is None or base.node is None else Node(ops.GETITEM, (base.node, local))
    if isinstance(keys, Absent):
        if keys.whose != LATER:
            return keys
        if base.pad is None:
            return unknown(node)
        made = filled(node, base.pad, rows.part, fit)
    if rows.part is None and (isinstance(keys, Absent) or keys.part is None):
        return Plain(made) if made is not None else Absent(PAST, 0, node)
    if isinstance(keys, Absent) or keys.part is None:
        assert rows.part is not None
        return rows.part._replace(node=made if rows.part.here else None)
    if rows.part is None:
        return keys.part._replace(node=made, pad=UNKNOWN if base.pad is None else base.pad)
    return Both(made, rows.part, keys.part, base.pad, base.causal)


def _is_before(keys: Chosen, row: int) -> bool:
    """Whether keys are named that a row has in whichever forward holds it."""
    part = keys.part
    return part is not None and part.fixed and len(part.full) > 0 and max(part.full) <= row


def update(node: Node, base: Both, given: State, states: States, fit: Fitting) -> State:
    """What an update of a part of such a value is.  Args: given: the state of its value."""
    _, index, value = node.args
    found = _where(node, base, index, states, fit)
    if isinstance(found, Refused):
        return found
    rows, keys, local = found
    if _is_of_a_later_token(node, base, fit):
        return Refused(
            node,
            "attention to a later token",
            "A token attends to those before it: name a key that is not later than its query.",
        )
    if local is None or base.node is None or isinstance(rows, Absent) or isinstance(keys, Absent):
        return base
    if isinstance(given, Absent):
        fit.check_absent(given, node)
        return base
    part: Any = value
    if type(value) is Node:
        part = onto(node, given, _shown(rows, keys), value, fit)
        if isinstance(part, Absent):
            fit.check_absent(part, node)
            return base
        if isinstance(part, Refused):
            return part
    made = Node(node.op, (base.node, local, part))
    if _is_causal(rows, keys, base, given):
        return base._replace(node=made)
    return masked(made, base.node, base, fit)


def _shown(rows: Chosen, keys: Chosen) -> State | None:
    """What an index shows, its node left out; None for what has neither axis."""
    if rows.part is not None and keys.part is not None:
        return Both(None, rows.part, keys.part, None, False)
    return rows.part or keys.part


def _numbers(one: Chosen, held: Held) -> Sequence[int]:
    """The positions that an index chooses, of those that a forward holds."""
    if one.part is None:
        assert one.one is not None
        return [held.chosen[one.one]]
    return those(one.part.chosen, one.part.here)


def _is_causal(rows: Chosen, keys: Chosen, base: Both, given: State) -> bool:
    """Whether what is written is nowhere where a key is later than its query."""
    if isinstance(given, Both) and given.causal and given.pad == base.pad is not None:
        return True
    queries, tokens = _numbers(rows, base.rows), _numbers(keys, base.keys)
    return ends(tokens)[1] <= ends(queries)[0]


def _is_of_a_later_token(node: Node, base: Both, fit: Fitting) -> bool:
    """Whether an index is one row and one key after it, both counted from the text's start."""
    kind = fit.about.kind(node.args[0])
    assert kind is not None
    parts = every_axis(node.args[1], len(kind[0])) or []
    row, key = (parts[place(parts, len(kind[0]) + h.axis)] for h in (base.rows, base.keys))
    is_named = base.rows.whole and base.keys.whole and type(row) is type(key) is int
    return is_named and 0 <= row < key


def masked(made: Node, before: Node, base: Both, fit: Fitting) -> Both | Refused:
    """An edited value where the key is not later than its query, what was there elsewhere."""
    rows, keys = base.rows, base.keys
    queries, tokens = those(rows.chosen, rows.here), those(keys.chosen, keys.here)
    if ends(tokens)[1] <= ends(queries)[0]:
        return base._replace(node=made)
    if not (_follow(queries) and _follow(tokens)):
        return Refused(made, "an edit of rows and keys that do not follow each other", SAME)
    fit.counted = fit.exact = True
    n, m = len(queries), len(tokens)
    seen = Node(ops.MX_TRI, (n, m, queries[0] - tokens[0]), (("dtype", DType("bool_")),))
    if rows.axis > keys.axis:
        seen = Node(ops.MX_SWAPAXES, (seen, 0, 1))
    shape = [1] * -min(rows.axis, keys.axis)
    shape[rows.axis], shape[keys.axis] = n, m
    seen = Node(ops.MX_RESHAPE, (seen, tuple(shape)))
    return base._replace(node=Node(ops.MX_WHERE, (seen, made, before)))


def _follow(numbers: Sequence[int]) -> bool:
    return same(numbers, range(numbers[0], numbers[0] + len(numbers)))


# -- values ---------------------------------------------------------------------------------------


def onto(node: Node, given: State, like: State | None, value: Node, fit: Fitting) -> Any:
    """A node of a value that goes together with what has one of these axes, both or none."""
    if like is None:
        plain = fit.plain(given, value)
        return plain.node if isinstance(plain, Plain) else plain
    if isinstance(like, Held):
        return fit.fitted(node, given, like, value)
    if isinstance(given, (Refused, Absent)):
        return given
    assert isinstance(like, Both)
    if isinstance(given, Both):
        if alike(given, like):
            return given.node
        is_one_key = len(given.keys.full) == 1 and same_rows(given, like)
        if is_one_key and given.keys.here:
            return given.node
        if is_one_key:
            return Absent(LATER, given.keys.full[0], node)
        return Refused(node, "an operation on different positions", SAME)
    kind = fit.about.kind(value)
    if isinstance(given, Held):
        mine, other = (like.keys, like.rows) if given.grown else (like.rows, like.keys)
        if _size(kind, other.axis) != 1:
            return Refused(node, "values of other positions", SAME)
        return fit.fitted(node, given, mine, value)
    for held in (like.rows, like.keys):
        fitted = fit.fitted(node, given, held, value)
        if isinstance(fitted, (Refused, Absent)):
            return fitted
        given = Plain(fitted)
    return given.node  # type: ignore[union-attr]


def _size(kind: tuple[tuple[int, ...], str] | None, axis: int) -> int:
    return 1 if kind is None or len(kind[0]) < -axis else kind[0][axis]


def _elementwise(node: Node, states: States, fit: Fitting) -> State:
    main = main_of(states)
    pad = _pad_of(node, states, fit)
    result = main._replace(node=None, pad=pad, causal=pad is not None)
    if main.node is None:
        return result
    nodes = {}
    for child, state in states.items():
        found = onto(node, state, main, child, fit)
        if isinstance(found, (Refused, Absent)):
            return found
        nodes[child] = found
    return result._replace(node=with_inputs(node, nodes))


def _pad_of(node: Node, states: States, fit: Fitting) -> float | None:
    """What stands for later keys in what is computed, where that is known."""
    axes = {}
    for child, state in states.items():
        if isinstance(state, Both):
            axes[child] = (state.keys.axis, state.pad if state.causal else None)
        elif isinstance(state, Held) and state.grown:
            axes[child] = (state.axis, None)
    if all(pad is None for _, pad in axes.values()):
        return None
    found = fit.about.over_keys(node, axes)
    if found is not None and found[0] == main_of(states).keys.axis:
        return found[1]
    zeros = [child for child, (_, pad) in axes.items() if pad == 0.0]
    return 0.0 if zeros and node.op == ops.MX_MULTIPLY else None


def _astype(node: Node, states: States) -> State:
    value, like = (states[child] for child in node.args)
    beside, given = like.node, value.node  # type: ignore[union-attr]
    if isinstance(value, Both):
        if given is None:
            return value
        if beside is None:
            return Absent(BEYOND, 0, node)
        return value._replace(node=Node(node.op, (given, beside)))
    if beside is None or given is None:
        return Absent(BEYOND, 0, node)
    made = Node(node.op, (given, beside))
    return value._replace(node=made) if isinstance(value, Held) else Plain(made)


# -- what comes out -------------------------------------------------------------------------------


def written(node: Node, state: State, whole: Both, fit: Fitting) -> Node | Refused | Absent:
    """What is written at a site whose value has both axes."""
    found = onto(node, state, whole, node, fit)
    if isinstance(found, (Refused, Absent)):
        return found
    if isinstance(state, Both) and state.causal and state.pad == whole.pad is not None:
        return found
    assert whole.node is not None
    made = masked(found, whole.node, whole, fit)
    return made if isinstance(made, Refused) else made.node  # type: ignore[return-value]
