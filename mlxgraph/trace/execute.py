"""Executing: a graph on a call, through rewriting and the runner, to arrays.

    graph  --  what is wrong with it raises here, as it was written
      |        what no save can see is left out
      v
    rewrites, each of which keeps what is computed          (rewrite/)
      v
    the slice of the output pushed below the head           (run/pushdown)
    and below the queries of the last layer                 (run/last_layer)
      v
    large scores and patterns in blocks of queries          (run/query_blocks)
      v
    a plan, made once, and kept as a prepared run           (run/)

A graph that comes again meets its prepared run at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from mlxgraph.errors import EscapedError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.evaluate.bounds import Outside
from mlxgraph.evaluate.values import NodeFailure
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.listing import around
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import begin, says_holds_nothing
from mlxgraph.record.bounds import refuse
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import paused
from mlxgraph.rewrite.pipeline import FOR_RUNS, simplify
from mlxgraph.run.call import Call, is_stateful
from mlxgraph.run.engine import Engine
from mlxgraph.run.last_layer import NAME as LAST_LAYER
from mlxgraph.run.plan import reach
from mlxgraph.run.pushdown import NAME as PUSHDOWN
from mlxgraph.run.query_blocks import NAME as QUERY_BLOCKS
from mlxgraph.run.runner import CompileMode
from mlxgraph.run.two_passes import AtPositions
from mlxgraph.trace.gradients import no_gradient
from mlxgraph.trace.ids import check_ids
from mlxgraph.trace.indices import check_given, check_indices, line_of, written_ids
from mlxgraph.trace.numbers import check_numbers, numbers_in
from mlxgraph.trace.spread import on_every_rank

REWRITES = (*[one.name for one in FOR_RUNS], PUSHDOWN, LAST_LAYER, QUERY_BLOCKS)
EVERY_REWRITE = frozenset(REWRITES)


class Options(NamedTuple):
    """How a graph is to be run: `compile` and `start` as for `trace`, the rewrites to use, and
    whether it may begin where a text that was run before is edited (`trace.reuse`)."""

    compile: CompileMode = "auto"
    rewrites: frozenset[str] = EVERY_REWRITE
    start: bool = False
    reuse: bool = False


def wanted_of(graph: Graph) -> tuple[Node, ...]:
    """What a run of a graph computes: its saves, or the model's output where it has none."""
    return tuple([node for _, node in graph.saves]) or (output_of(graph),)


def output_of(graph: Graph) -> Node:
    """The model's output as a graph leaves it."""
    return dict(graph.writes).get(Site("", OUTPUT)) or site_node("")


class Job(NamedTuple):
    """One run that is asked for.

    Attributes:
        graph: what to do; call: the forward's inputs; params: values of the graph's params.
        options: how to run it.
        census: the call's, where it is known already.
        checked: whether the graph was recorded on this call, its indices among the rest.
    """

    graph: Graph
    call: Call
    params: Mapping[str, Any]
    options: Options = Options()
    census: Census | None = None
    checked: bool = False

    def beside(self) -> Job:
        """The same run once more, eagerly and leaving no mark on what the user gave."""
        options = self.options._replace(compile=False, start=False)
        return self._replace(call=self.call.again(), options=options)


def execute(engine: Engine, job: Job, nodes: Sequence[Node] | None = None) -> list[Any]:
    """The values of a graph's saves, lazy.  What this computes is never recorded.

    Args: nodes: compute these instead of the saves.
    """
    if engine.runner.tree.is_spread:
        return on_every_rank(engine, job, nodes, partial(_execute, engine))
    return _execute(engine, job, nodes)


def _execute(engine: Engine, job: Job, nodes: Sequence[Node] | None) -> list[Any]:
    graph, call, params, options, census, checked = job
    wanted = tuple([node for _, node in graph.saves] if nodes is None else nodes)
    asked, runner = len(wanted), engine.runner
    with paused():
        if not call.plain or call.given is not None:
            census = census or runner.census(call)
            if is_stateful(call, census):  # the forward goes to its end, for the cache's sake
                wanted = (*wanted, site_node(""))
        key = runner.key(graph, wanted, call, options.rewrites)
        made = None if key is None else runner.prepared.get(key) or runner.of_functions.get(key)
        if made is None:
            census = census or runner.census(call)
            runner.look_again_with(census, call)
            written = as_written(graph, wanted, census)
            indices = check_indices(written.graph, wanted, census, runner)
            *_, last = written, *rewritten(engine, written, census, call, options.rewrites)
            blocks = may_be_in_blocks(call, options.rewrites)
            made = runner.prepare(
                key, last.graph, last.wanted, census, call, options.compile, last.at, blocks
            )
            made.indices = indices
            made.numbers = numbers_in(written.graph, wanted, census, runner)
        if job.census is None:  # nobody has looked at this call before
            check_ids(made.rows, call)
        if made.indices:
            some = made.indices if params or not checked else written_ids(made.indices)
            check_given(some, graph, params, call)
        if made.numbers and (params or not checked):
            check_numbers(made.numbers, graph, params)
        try:
            if made.unasked:  # once: whether its gradients are gradients of anything
                nothing = made.gradient_of_nothing(call, graph.constants, params)
                if nothing is not None:
                    raise no_gradient(nothing, _seen(graph, wanted, call, options))
            values = runner.run(made, call, graph.constants, params, options.compile)
            if options.start:
                _begin(values)
            return values[:asked]
        except NodeFailure as failure:
            if isinstance(failure.error, Outside):
                refuse(failure.error, line_of(graph, failure.node))
            seen = _seen(graph, wanted, call, options)
            raise failure_said(failure, seen) from failure.error


def _begin(values: list[Any]) -> None:
    try:
        begin([one for one in leaves(values) if isinstance(one, ARRAY)])
    except RuntimeError as error:
        if not says_holds_nothing(error):
            raise
        raise EscapedError(str(here())) from None


def execute_beside(engine: Engine, job: Job, nodes: Sequence[Node], key: Any) -> list[Any]:
    """The values of nodes in a run that is over already, lazy: its draws are drawn again.

    Args: key: the random state before that run; the present one stays as it is.
    """
    now = random_state.current()
    random_state.restore(key)
    try:
        return execute(engine, job.beside(), nodes)
    finally:
        random_state.restore(now)


def finish(engine: Engine, recording: Recording, job: Job) -> dict[str, Any]:
    """Run what was recorded and give every saved handle its value.

    Returns: the saved values by name; none where nothing is saved or a param has no value.
    """
    if recording.unbound:
        return {}
    nothing = not recording.saves and not is_stateful(job.call, recording.census)
    if nothing and not engine.runner.tree.is_spread:
        return {}
    return recording.finish(job.graph, execute(engine, job))


class Rewritten(NamedTuple):
    """What one rewrite made of a graph and of the nodes that are wanted of it."""

    name: str
    graph: Graph
    wanted: tuple[Node, ...]
    at: AtPositions | None = None  # how the last block is run, if at few positions


def as_written(graph: Graph, wanted: tuple[Node, ...], census: Census) -> Rewritten:
    """The graph without the writes that nothing wanted can see.

    Raises: what is wrong with the graph on this census, before any rewrite.
    """
    seen = reach(graph, census, wanted).writes
    return Rewritten("", graph.replace(writes=seen.items()), wanted)


def rewritten(
    engine: Engine, first: Rewritten, census: Census, call: Call, names: frozenset[str]
) -> Iterator[Rewritten]:
    """The graph after each rewrite that changes it; a call that carries state is left alone."""
    graph = _saving(first.graph, first.wanted)
    for change in simplify(graph, _chosen(call, names)).history:
        graph = change.after
        yield Rewritten(change.name, graph, tuple([node for _, node in graph.saves]))
    if call.plain and not call.turned:
        wanted = tuple([node for _, node in graph.saves])
        runner = engine.runner
        last = runner.at_last(graph, wanted, census, call) if LAST_LAYER in names else None
        if PUSHDOWN in names:
            pushed = runner.pushed(graph, wanted, census, call, last is not None)
            if pushed is not None:
                yield Rewritten(PUSHDOWN, pushed.graph, pushed.saves)
        if last is not None:
            yield Rewritten(LAST_LAYER, last[0].graph, last[0].saves, last[1])


def may_be_in_blocks(call: Call, names: frozenset[str]) -> bool:
    """Whether large scores and patterns may be computed in blocks of queries."""
    return QUERY_BLOCKS in names and not call.turned


def _chosen(call: Call, names: frozenset[str]) -> list[Any]:
    return [one for one in FOR_RUNS if one.name in names] if call.plain else []


def _saving(graph: Graph, wanted: Sequence[Node]) -> Graph:
    """The graph with what is wanted as its saves: its own, or else by number."""
    if [node for _, node in graph.saves] == list(wanted):
        return graph
    return graph.replace(saves=[(str(k), node) for k, node in enumerate(wanted)])


def _seen(graph: Graph, wanted: tuple[Node, ...], call: Call, options: Options) -> Graph:
    """The graph as it was run, its notes with it."""
    return simplify(_saving(graph, wanted), _chosen(call, options.rewrites)).graph


def failure_said(failure: NodeFailure, graph: Graph) -> ShapeError:
    """What a node could not compute, with its line and its neighbours in the graph."""
    reason = str(failure.error).split("\n")[0]
    return ShapeError(
        f"{failure.node.op.removeprefix('mx.')} does not fit these inputs: {reason}",
        line_of(graph, failure.node),
        "It was recorded with inputs of another shape; record it again with these.",
        around(graph, failure.node, 2),
    )
