"""`model.run`, `model.compile` and `model.explain`: what they take."""

from __future__ import annotations

from typing import Any

from mlxgraph.graph.graph import Graph, HasGraph
from mlxgraph.model.compiled_pass import CompiledPass, Result
from mlxgraph.model.explain import Explanation
from mlxgraph.model.explain import explain as explained
from mlxgraph.model.optimize import Optimize, options_of, rewrites_named
from mlxgraph.run.runner import CompileMode


def run(
    self: Any,
    graph: Graph | HasGraph,
    *inputs: Any,
    compile: CompileMode = "auto",
    optimize: Optimize = True,
    start: bool = False,
    reuse: bool = False,
    **kwargs: Any,
) -> Result:
    """Run a graph once.  Of several processes each does all of it.

    Args:
        graph, inputs, compile, optimize, start: as for `trace`.
        reuse: begin at the first token that the graph edits or reads, and after the last layer
            before all of it, with keys and values of the tokens before and what that layer gave
            from an unedited run of the same text.  That run is made the first
            time a text comes, and kept for the last 4 texts; a weight, module or setting that
            changes makes it void.  Where it cannot be done, which `model.explain` says, all of the
            text is run.  The values are the same up to rounding (1e-4 of the largest in float32).
        kwargs: the graph's params by name, and the model's own keyword arguments.
    """
    options = options_of(compile, optimize, start, reuse)
    return CompiledPass(self._engine, graph, options)(*inputs, **kwargs)


def compile(
    self: Any, graph: Graph | HasGraph, *, optimize: Optimize = True, reuse: bool = False
) -> CompiledPass:
    """A graph as a compiled function of inputs and params.  Args: as for `model.run`."""
    return CompiledPass(self._engine, graph, options_of(True, optimize, reuse=reuse))


def explain(
    self: Any,
    graph: Graph | HasGraph,
    *inputs: Any,
    optimize: Optimize = True,
    reuse: bool = False,
    **kwargs: Any,
) -> Explanation:
    """What each rewrite makes of a graph, and what a run with these inputs will do; of a list of
    graphs, what a sweep of them will do.

    Returns: a page of text; nothing is computed.
    """
    return explained(self._engine, graph, inputs, rewrites_named(optimize), kwargs, reuse)
