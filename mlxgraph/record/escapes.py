"""Escapes: what came into a recording behind its back, by functions that it cannot see.

A function of MLX that was imported by name, or compiled, computes with a placeholder as with any
array: what it gives holds nothing.  A draw by such a function is one array for good, in every run.

In: the constants of a recording, and where it stood.  Out: which of them are no constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.errors import EscapedError
from mlxgraph.graph import ops
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import holds_nothing, is_drawn

MOST_CHECKED = 4096


def check_escapes(
    lines: Mapping[Node, Any], constants: Sequence[Any], key: mx.array, checked: set[Any]
) -> None:
    """Raise EscapedError where a constant is none.

    Args:
        lines: the nodes, and where each was written.
        key: the random state as the block began.
        checked: the nodes that were found to be constants, with their lines: these are not asked
            again, for to ask MLX must begin to compute them.
    """
    arrays = [(node, constants[node.args[0]]) for node in lines if node.op == ops.CONSTANT]
    drawn = _drawn(arrays) if arrays and random_state.moved(key) else None
    for node, array in arrays:
        asked = (node, lines[node])
        if asked in checked:
            continue
        if holds_nothing(array):
            raise EscapedError(str(lines[node]))
        if len(checked) > MOST_CHECKED:
            checked.clear()
        checked.add(asked)
    if drawn is not None:
        raise EscapedError(
            str(lines[drawn]),
            "Write `mx.random.normal(...)` for a new draw in every run; `model.noise = module`, and"
            " call `model.noise(h)`, for a module that draws so. Draw before the block for one"
            " array in all of them.",
            "a random draw went into the recording as a plain array: it was made in this block by a"
            " function that the recording cannot see (imported by name), and would be the same in"
            " every run.",
        )


def _drawn(arrays: Sequence[tuple[Node, Any]]) -> Node | None:
    """The first constant that is a draw which was not computed yet; one from before the block is,
    or is taken for one that was made in it."""
    return next((node for node, array in arrays if is_drawn(array)), None)


def holding_nothing(constants: Sequence[Any]) -> Iterator[bool]:
    """Of each constant, whether it holds nothing."""
    return (isinstance(value, ARRAY) and holds_nothing(value) for value in constants)
