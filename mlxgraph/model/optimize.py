"""Which passes a run uses: joins the room that rewrites to the room that runs.

`optimize=True` uses all of them, `False` none, and a tuple of names just those.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlxgraph.errors import UnknownNameError
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node
from mlxgraph.rewrite.pipeline import FOR_RUNS, Simplified
from mlxgraph.rewrite.pipeline import simplify as by_passes
from mlxgraph.run.ops import evaluate
from mlxgraph.run.pushdown import NAME as PUSHDOWN

Optimize = bool | str | Sequence[str]
RUN_PASSES = (*[one.name for one in FOR_RUNS], PUSHDOWN)
_EVERY = frozenset(RUN_PASSES)
_NONE: frozenset[str] = frozenset()


def passes_named(optimize: Optimize) -> frozenset[str]:
    """The names of the passes that a run is to use.  Raises: UnknownNameError."""
    if optimize is True:
        return _EVERY
    if optimize is False:
        return _NONE
    names = frozenset((optimize,) if isinstance(optimize, str) else optimize)
    for name in names - _EVERY:
        raise UnknownNameError("pass", str(name), RUN_PASSES)
    return names


def for_run(graph: Graph, names: frozenset[str]) -> Simplified:
    """A graph simplified for every value of its constants, which keep their numbers."""
    return by_passes(graph, [one for one in FOR_RUNS if one.name in names])


def for_saves(
    graph: Graph, saves: Sequence[Node], names: frozenset[str]
) -> tuple[Graph, tuple[Node, ...]]:
    """As `for_run`, for a run that saves some nodes of its own choosing."""
    named = [(str(k), node) for k, node in enumerate(saves)]
    done = for_run(graph.replace(saves=named), names).graph
    return done, tuple([node for _, node in done.saves])


def simplify(graph: Graph, without: str | Sequence[str] = ()) -> Graph:
    """The graph with everything left out that does not change what it computes.

    Args: without: names of passes to leave out: `updates`, `noops`, `reads`, `views`, `casts`,
        `twins`, `constants`, `folding`, `dead`.

    Two of them look at values: `constants` and `folding` compute what can be known now, as MLX
    itself would.  The result is the graph for these values.

    Raises: UnknownNameError for a name that is no pass.
    """
    names = (without,) if isinstance(without, str) else without
    return by_passes(graph, without=names, evaluate=evaluate).graph
