"""Explaining: what each rewrite makes of a graph, and what a run of it will do.

The same rewrites, plan and proofs as in a run, told instead of carried out: nothing of the run is
computed.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph, HasGraph
from mlxgraph.graph.listing import listing
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.compiling import switched_off
from mlxgraph.model.compiled_pass import CompiledPass
from mlxgraph.model.sweep import plan_on
from mlxgraph.record.stack import paused
from mlxgraph.rewrite.pipeline import ALL
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.run.plan import Plan, make_plan
from mlxgraph.run.prefix import known_reason
from mlxgraph.trace.execute import (
    LAST_LAYER,
    PUSHDOWN,
    Job,
    Options,
    as_written,
    may_be_in_blocks,
    rewritten,
)
from mlxgraph.trace.indices import check_given, check_indices
from mlxgraph.trace.reuse import first_layer, why_not

LAWS = {one.name: one.law for one in ALL} | {
    PUSHDOWN: "the final norm and the head treat each position alone",
    LAST_LAYER: "of other positions the last layer needs no more than keys and values",
}


class Explanation(str):
    """A page of text that a notebook shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def explain(
    engine: Engine,
    graph: Graph | HasGraph,
    inputs: tuple,
    names: frozenset[str],
    kwargs: dict[str, Any],
    reuse: bool = False,
) -> Explanation:
    """What each rewrite makes of a graph, and what a run with these inputs will do; of several
    graphs, what a sweep of them will do.

    Args: names: of the rewrites to use; kwargs: the model's own keyword arguments, and the graph's
        params, whose values do not matter here.
    Raises: what a run would raise before it computes anything.
    """
    if isinstance(graph, (list, tuple, dict)):
        x = inputs[0] if len(inputs) == 1 else inputs
        return Explanation(plan_on(engine, x, graph, None, None, kwargs).explain())
    compiled = CompiledPass(engine, graph, Options())
    params = {name: value for name, value in kwargs.items() if name in compiled.graph.params}
    (written, wanted, _), call = compiled.resolve(inputs, kwargs)
    if not written.saves:
        written = written.replace(saves=[("output", node) for node in wanted])
    with paused():
        census = engine.runner.census(call)
        parts = ["as it was written", _indented(listing(written))]
        last = seen = as_written(written, wanted, census)
        indices = check_indices(seen.graph, wanted, census, engine.runner)
        check_given(indices, seen.graph, {}, call)
        kept = {site for site, _ in seen.graph.writes}
        left_out = [site for site, _ in written.writes if site not in kept]
        for change in rewritten(engine, seen, census, call, names):
            parts += [f"after {change.name}: {LAWS[change.name]}", _indented(listing(change.graph))]
            last = change
        plan = make_plan(
            last.graph, census, last.wanted, last.at, in_blocks=may_be_in_blocks(call, names)
        )
        tried = engine.runner.tried(written, wanted, call, names)
        begins = _begins(engine, Job(written, call, params), wanted) if reuse else ""
    if len(parts) == 2:
        parts.append("no rewrite changes it" if names else "no rewrite is used")
    parts += ["the run", *([begins] if reuse else []), *_told(plan, census, call, left_out, tried)]
    return Explanation("\n".join(parts))


def _begins(engine: Engine, job: Job, wanted: tuple[Node, ...]) -> str:
    found, layer = why_not(engine, job, wanted), first_layer(engine, job, wanted)
    tried = known_reason(engine.runner, job.call)
    unless = "" if tried == "" else ", if a trial shows that the model can"
    after = "" if layer is None else f"after {layer}, which is kept from an unedited run{unless}"
    if isinstance(found, str):
        return (
            f"  begin {after}; at the first token: {found}"
            if after
            else f"  run the whole text: {found}"
        )
    length = job.call.args[0].shape[1]
    at = f"  begin at token {found} of {length}, the others kept from an unedited run{unless}"
    return f"{at}, and {after}" if after else at


def _told(plan: Plan, census: Census, call: Call, left_out: list[Site], failure: str) -> list[str]:
    """What the run does, a line each."""
    visits = sorted(plan.stops, key=census.position)
    lines = []
    for site in visits:
        deeds = [
            word for word, which in (("read", plan.read), ("write", plan.writes)) if site in which
        ]
        lines.append(f"  {' and '.join(deeds)} {site}{_in_blocks(plan, site)}")
    lines += [f"  leave out the write at {site}: no save can see it" for site in left_out]
    if plan.last_layer is not None:
        at = plan.last_layer
        few = f"{at.stop - at.start} of {at.length} positions"
        lines.append(f"  run {at.path} at {few}, its keys and values at {at.stop}")
    lines.append(f"  {_end(plan, census)}")
    lines.append(f"  {_how(plan, census, call, failure)}")
    return lines


def _in_blocks(plan: Plan, site: Site) -> str:
    """How much of a square is made at once, where that is not all of it."""
    for blocks in plan.blocks.values():
        if site in blocks.sites:
            most = max(min(blocks.rows, one.queries) for one in blocks.wanted)
            return f" at {most} of {blocks.queries} queries at a time, never whole"
    return ""


def _end(plan: Plan, census: Census) -> str:
    if plan.last is None:
        return "run no forward: nothing of the model is needed"
    calls = [*census.outputs()]
    rest = sum(census.order[site] > census.order[plan.last] for site in calls)
    if not rest:
        return f"stop at {plan.last}: the whole forward is needed"
    return f"stop at {plan.last}: {rest} of {len(calls)} module calls are not finished"


def _how(plan: Plan, census: Census, call: Call, failure: str) -> str:
    if not call.plain:
        return "eager, always: an input carries state that compiling would bake in"
    if not census.traceable:
        off = switched_off()
        why = (
            f"{off} has switched mx.compile off"
            if off
            else "the forward looks at values while it runs"
        )
        return f"eager, always: {why}"
    if failure:
        return f"eager, always: it could not be compiled, {failure}"
    if plan.opaque:
        return "eager, unless compile=True: it holds a Python function that may look at values"
    return "eager the first time, compiled when it comes again; compile=True or False forces it"


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.split("\n"))
