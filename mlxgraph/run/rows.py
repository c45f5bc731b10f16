"""Rows: which of the arrays that a module is given number the rows of an embedding.

In: a module of a tree, and what it is called with.  Out: which arrays go into an embedding as they
are, and how many rows that has.  Never: evaluates an array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.graph.nested import leaves, map_nested
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.compiling import only_traced, uncompiled
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree


def rows_of(embedding: Any) -> int:
    """How many rows an embedding has, quantised or not."""
    return int(embedding.weight.shape[0])


def same_array(arrays: Sequence[mx.array], wanted: Any) -> Iterator[int]:
    """The numbers of the places where a list of arrays holds this very one."""
    return (k for k, array in enumerate(arrays) if array is wanted)


def rows_taken(tree: ModuleTree, path: str, given: Any) -> dict[int, tuple[str, int]]:
    """Which arrays of a module's `(args, kwargs)` number rows: `{array: (path, how many rows)}`.

    Arrays count from left to right.  Nothing is told of a call that fails, or branches on values.
    """
    module = tree.modules[path]
    if path in tree.embeddings:
        return {0: (path, rows_of(module))}
    inside = set(map(id, module.modules())) if path else None
    below = [p for p, m in tree.embeddings.items() if inside is None or id(m) in inside]
    if not below:
        return {}
    found: dict[int, tuple[str, int]] = {}
    tracers: list[mx.array] = []

    def report(at: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        if len(args) == 1:
            for k in same_array(tracers, args[0]):
                found[k] = (at, rows_of(tree.embeddings[at]))
        return original(*args, **kwargs)

    def visit(*arrays: mx.array) -> None:
        tracers[:] = arrays
        rest = iter(arrays)
        args, kwargs = map_nested(given, lambda v: next(rest) if isinstance(v, ARRAY) else v)
        with uncompiled():
            StandIn(tree, below, report).modules[path](*args, **kwargs)

    before = random_state.current()
    try:
        only_traced(visit, [value for value in leaves(given) if isinstance(value, ARRAY)])
    except Exception:  # the call itself says what is wrong with it
        pass
    finally:
        random_state.restore(before)
    return found
