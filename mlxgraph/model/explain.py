"""Explaining: what each pass makes of a graph, and what a run of it will do.

The same passes, plan and proofs as in a run, told instead of carried out: nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.listing import listing
from mlxgraph.graph.node import site_node
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.model.compiled_pass import CompiledPass
from mlxgraph.model.optimize import for_run
from mlxgraph.record.stack import paused
from mlxgraph.rewrite.pipeline import ALL
from mlxgraph.run import pushdown
from mlxgraph.run.call import Call
from mlxgraph.run.plan import Plan, make_plan
from mlxgraph.trace.inputs import Inputs

if TYPE_CHECKING:
    from mlxgraph.model.model import InterpretableModel

LAWS = {one.name: one.law for one in ALL} | {
    pushdown.NAME: "the final norm and the head treat each position alone"
}


class Explanation(str):
    """A page of text that a notebook shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def explain(
    model: InterpretableModel,
    graph: Graph,
    inputs: tuple,
    passes: frozenset[str],
    kwargs: dict[str, Any],
) -> Explanation:
    """What each pass makes of a graph, and what a run with these inputs will do.

    Args: passes: the names of the passes to use; kwargs: the model's own keyword arguments, and
        the graph's params, whose values do not matter here.
    Raises: what a run would raise before it computes anything.
    """
    written, prepared, call = _resolved(model, graph, inputs, kwargs)
    with paused():
        census = model._runner.census(call, prepared.forward, prepared.kind)
        nodes = [node for _, node in written.saves]
        plan = make_plan(written, census, nodes)
        parts = ["as it was written", _indented(listing(written))]
        left_out = [site for site, _ in written.writes if site not in plan.writes]
        seen = written.replace(writes=plan.writes.items())
        for name, after in _steps(model, seen, plan, census, call, prepared, passes):
            parts += [f"after {name}: {LAWS[name]}", _indented(listing(after))]
            seen = after
        plan = make_plan(seen, census, [node for _, node in seen.saves])
    if len(parts) == 2:
        parts.append("no pass changes it" if passes else "no pass is used")
    parts += ["the run", *_told(plan, census, call, left_out)]
    return Explanation("\n".join(parts))


def _resolved(
    model: InterpretableModel, graph: Graph, inputs: tuple, kwargs: dict[str, Any]
) -> tuple[Graph, Inputs, Call]:
    """The graph with its patterns resolved and something to compute, and the call."""
    written, prepared, call = CompiledPass(model, graph).resolved(*inputs, **kwargs)
    if not written.saves:
        output = dict(written.writes).get(Site("", OUTPUT)) or site_node("")
        written = written.replace(saves=[("output", output)])
    return written, prepared, call


def _steps(
    model: InterpretableModel,
    graph: Graph,
    plan: Plan,
    census: Census,
    call: Call,
    prepared: Inputs,
    passes: frozenset[str],
) -> Iterator[tuple[str, Graph]]:
    """Each pass that changes the graph, with what it makes of it."""
    if not call.plain:
        return
    for change in for_run(graph, passes).history:
        graph = change.after
        yield change.name, graph
    if pushdown.NAME in passes:
        plan = make_plan(graph, census, [node for _, node in graph.saves])
        pushed = model._runner.pushed(graph, plan, census, call, prepared.forward, prepared.kind)
        if pushed is not None:
            yield pushdown.NAME, pushed.graph


def _told(plan: Plan, census: Census, call: Call, left_out: list[Site]) -> list[str]:
    """What the run does, a line each."""
    visits = sorted(plan.stops, key=census.position)
    lines = []
    for site in visits:
        deeds = [
            word for word, which in (("read", plan.read), ("write", plan.writes)) if site in which
        ]
        lines.append(f"  {' and '.join(deeds)} {site}")
    lines += [f"  leave out the write at {site}: no save can see it" for site in left_out]
    lines.append(f"  {_end(plan, census)}")
    lines.append(f"  {_how(plan, census, call)}")
    return lines


def _end(plan: Plan, census: Census) -> str:
    if plan.last is None:
        return "run no forward: nothing of the model is needed"
    calls = [site for site in census.order if site.port == OUTPUT]
    rest = sum(census.order[site] > census.order[plan.last] for site in calls)
    if not rest:
        return f"stop at {plan.last}: the whole forward is needed"
    return f"stop at {plan.last}: {rest} of {len(calls)} module calls are not finished"


def _how(plan: Plan, census: Census, call: Call) -> str:
    if not call.plain:
        return "eager, always: an input carries state that compiling would bake in"
    if not census.traceable:
        return "eager, always: the forward looks at values while it runs"
    if plan.opaque:
        return "eager, unless compile=True: it holds a Python function that may look at values"
    return "eager the first time, compiled when it comes again; compile=True or False forces it"


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.split("\n"))
