"""Taking the census: one unevaluated forward in which every module reports.

It is traced by `mx.compile` over stand-ins of the inputs, so nothing can be computed by accident
and it works inside other transformations.  A model that looks at values while it runs cannot be
traced: then the forward is built lazily from the real inputs, and the census says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import mlx.core as mx

from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import map_nested
from mlxgraph.graph.site import INPUTS, OUTPUT, Site
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.compiling import only_traced, uncompiled
from mlxgraph.mlx_facts.placeholders import placeholder
from mlxgraph.run.call import Call
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree


def take_census(tree: ModuleTree, call: Call) -> Census:
    """What one forward with these inputs visits; inputs that carry state are left as they are.

    Raises: whatever the model raises on these inputs.
    """
    before = random_state.current()
    call = call.again()
    try:
        census = _traced(tree, call) if call.plain else None
        if census is None:
            census = Census(traceable=False)
            _visit(census, tree, call)
        census.draws = not random_state.same(before)
    finally:
        random_state.restore(before)
    return census


def _traced(tree: ModuleTree, call: Call) -> Census | None:
    """The census from a trace, or None if this forward cannot be traced."""
    census = Census()

    try:
        only_traced(lambda *tracers: _visit(census, tree, call.with_arrays(tracers)), call.arrays)
    except Exception:  # the plain forward that follows raises what is the model's own
        return None
    return census


def _visit(census: Census, tree: ModuleTree, call: Call) -> None:
    seen: Counter[str] = Counter()

    def report(path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        number = seen[path]
        seen[path] += 1
        census.visit(Site(path, INPUTS, number), map_nested((args, kwargs), _abstract))
        result = original(*args, **kwargs)
        census.visit(Site(path, OUTPUT, number), map_nested(result, _abstract))
        return result

    standin = StandIn(tree, tree.modules, report)
    with uncompiled() if tree.may_compile else nullcontext():
        call.forward(standin.root, call.args, call.kwargs)


def _abstract(value: Any) -> Any:
    return placeholder(value.shape, value.dtype) if isinstance(value, mx.array) else value
