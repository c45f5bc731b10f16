"""Taking the census: one unevaluated forward in which every module reports.

It is traced by `mx.compile` over stand-ins of the inputs, so nothing can be computed by accident
and it works inside other transformations.  A model that looks at values while it runs cannot be
traced: then the forward is built lazily from the real inputs, and the census says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import leaves, map_nested, unflatten
from mlxgraph.graph.site import INPUTS, OUTPUT, Site
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.placeholders import placeholder
from mlxgraph.run.forward import Forward
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree

_compile = mx.compile  # MLX's own, also while a block is open


def take_census(
    tree: ModuleTree, forward: Forward, args: tuple, kwargs: dict[str, Any], traceable: bool = True
) -> Census:
    """What one forward with these inputs visits.

    Args: traceable: False where the inputs themselves rule out `mx.compile`.
    Raises: whatever the model raises on these inputs.
    """
    before = random_state.current()
    try:
        census = _traced(tree, forward, args, kwargs) if traceable else None
        if census is None:
            census = Census(traceable=False)
            _visit(census, tree, forward, args, kwargs)
        census.draws = not random_state.same(before)
    finally:
        random_state.restore(before)
    return census


def _traced(
    tree: ModuleTree, forward: Forward, args: tuple, kwargs: dict[str, Any]
) -> Census | None:
    """The census from a trace, or None if this forward cannot be traced."""
    census = Census()
    inputs = leaves((args, kwargs))
    arrays = [value for value in inputs if isinstance(value, mx.array)]

    def trace(*tracers: mx.array) -> list[mx.array]:
        rest = iter(tracers)
        filled = [next(rest) if isinstance(v, mx.array) else v for v in inputs]
        traced_args, traced_kwargs = unflatten((args, kwargs), filled)
        _visit(census, tree, forward, traced_args, traced_kwargs)
        return []

    try:
        _compile(trace)(*[mx.zeros(a.shape, a.dtype) for a in arrays])
    except Exception:  # the plain forward that follows raises what is the model's own
        return None
    return census


def _visit(
    census: Census, tree: ModuleTree, forward: Forward, args: tuple, kwargs: dict[str, Any]
) -> None:
    seen: Counter[str] = Counter()

    def report(path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        call = seen[path]
        seen[path] += 1
        census.visit(Site(path, INPUTS, call), map_nested((args, kwargs), _abstract))
        result = original(*args, **kwargs)
        census.visit(Site(path, OUTPUT, call), map_nested(result, _abstract))
        return result

    standin = StandIn(tree, tree.modules, report)
    forward(standin.root, args, kwargs)


def _abstract(value: Any) -> Any:
    return placeholder(value.shape, value.dtype) if isinstance(value, mx.array) else value
