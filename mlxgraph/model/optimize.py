"""Which rewrites are used: what `optimize=` means, and simplifying a graph by hand.

`optimize=True` uses all of them, `False` none, and a tuple of names just those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlxgraph.errors import CompileError, InputError, UnknownNameError
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.evaluate.evaluate import evaluate
from mlxgraph.graph.graph import Graph, HasGraph, graph_of
from mlxgraph.rewrite.pipeline import simplify as simplified
from mlxgraph.run.runner import CompileMode
from mlxgraph.trace.execute import EVERY_REWRITE, REWRITES, Options

COMPILE_MODES = (True, False, "auto")
Optimize = bool | str | Sequence[str]


def rewrites_named(optimize: Optimize) -> frozenset[str]:
    """The names of the rewrites that a run is to use.  Raises: UnknownNameError."""
    if optimize is True:
        return EVERY_REWRITE
    if optimize is False:
        return frozenset()
    if not isinstance(optimize, Iterable):
        raise InputError(
            f"optimize={optimize!r:.40} names no rewrites.\n  Write optimize=True, optimize=False,"
            " or names: optimize=('pushdown', 'last_layer')."
        )
    names = frozenset((optimize,) if isinstance(optimize, str) else optimize)
    for name in names - EVERY_REWRITE:
        raise UnknownNameError("rewrite", str(name), REWRITES)
    return names


def options_of(
    compile: CompileMode, optimize: Optimize, start: bool = False, reuse: bool = False
) -> Options:
    """How a run is to be done, as the user says it.  Raises: CompileError, UnknownNameError."""
    if not isinstance(compile, (bool, str)) or compile not in COMPILE_MODES:
        raise CompileError(
            f"compile={compile!r} is no way to run a pass.\n"
            "  Write compile=True, compile=False, or compile='auto', which compiles what comes a"
            " second time."
        )
    return Options(compile, rewrites_named(optimize), bool(start), bool(reuse))


@at_the_edge
def simplify(graph: Graph | HasGraph, without: str | Sequence[str] = ()) -> Graph:
    """The graph with everything left out that does not change what it computes.

    Args: without: names of rewrites to leave out: `updates`, `noops`, `reads`, `views`, `casts`,
        `twins`, `constants`, `folding`, `dead`.

    Two of them look at values: `constants` and `folding` compute what can be known now, as MLX
    itself would.  The result is the graph for these values.

    Raises: UnknownNameError for a name that is no rewrite.
    """
    names = (without,) if isinstance(without, str) else without
    return simplified(graph_of(graph), without=names, evaluate=evaluate).graph
