"""Indices of a graph that meets a call: each is checked before anything runs.

A graph may have been recorded on a longer text or a larger batch.  What its indices are is in the
graph; how large the arrays are, the census says.

In: a graph as it was written, a census.  Out: nothing, or a BoundsError on the user's line; and
the indices whose numbers come with each run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mlxgraph.errors import MLXGraphError, ShapeError, VocabularyError
from mlxgraph.evaluate.bounds import (
    INDEXES,
    UNKNOWN,
    Along,
    Outside,
    Shape,
    check_frozen,
    frozen_index,
    indexed,
    nodes_in,
)
from mlxgraph.evaluate.evaluate import call_arguments
from mlxgraph.evaluate.known import known_values, made_of_sources
from mlxgraph.evaluate.values import NodeFailure
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.node import Node, site_node, walk
from mlxgraph.graph.site import INPUTS
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.bounds import refuse
from mlxgraph.record.inference import Inference
from mlxgraph.record.rows import first_input
from mlxgraph.run.call import Call
from mlxgraph.run.rows import rows_taken
from mlxgraph.run.runner import Runner


class Index(NamedTuple):
    """An index some of whose numbers are inputs of the run, and the shape it goes into."""

    node: Node
    index: Any
    shape: Shape
    others: dict[Node, Any]  # placeholders of what else it is made of
    embedding: str = ""  # the path of the one whose rows these are
    given: Mapping[Node, int] = {}  # nodes that are arrays of the call, by number


def check_indices(
    graph: Graph, wanted: tuple[Node, ...], census: Census, runner: Runner
) -> tuple[Index, ...]:
    """Raise BoundsError where a graph would index outside of an array of this forward.

    Returns: the indices that arrays from outside are part of, to be checked with their values.
    """
    nodes = [*walk([*wanted, *[node for _, node in graph.writes]])]
    found = [*_written_ids(graph, census)]
    if not found and not any(node.op in INDEXES or node.op == ops.CALL for node in nodes):
        return ()
    inference = Inference(census, runner.modules, lambda site: None, list(graph.constants))
    for node in nodes:
        if node.op == ops.CALL:
            found += _looked_up(node, inference, runner)
        shape = _shape(node, inference) if node.op in INDEXES else None
        if shape is None:
            continue
        others = {n: inference.infos[n].value for n in node.inputs if n in inference.infos}
        index = frozen_index(node)
        try:
            check_frozen(index, shape, defaultdict(lambda: UNKNOWN, others).__getitem__)
        except Outside as outside:
            refuse(outside, line_of(graph, node))
        if node.op == ops.UPDATE:
            _check_fits(node, inference, graph)
        if made_of_sources(nodes_in(index)):
            found.append(Index(node, index, shape, others))
    return tuple(found)


def _written_ids(graph: Graph, census: Census) -> Iterator[Index]:
    """What is written where an embedding takes its rows' numbers."""
    for site, node in graph.writes:
        if site.port == INPUTS and site.path in census.embeddings:
            size, inputs = census.embeddings[site.path], site_node(*site)
            numbers = [k for k, (path, _) in census.rows.items() if path == site.path][:1]
            firsts = [first_input(inputs), Node(ops.LEAF, (inputs, 0))]
            given = {first: k for k in numbers for first in firsts}
            ids = first_input(node)
            if type(ids) is Node and made_of_sources([ids], given):
                yield Index(node, Along(ids, 0), (size,), {}, site.path, given)


def _looked_up(node: Node, inference: Inference, runner: Runner) -> Iterator[Index]:
    """What a module called by hand takes as the numbers of an embedding's rows."""
    if not runner.tree.embeddings or not made_of_sources(node.inputs):
        return
    path, args, kwargs = call_arguments(node, lambda child: inference.info(child).value)
    if path not in runner.tree.modules:
        return
    arrays = [value for value in leaves((args, kwargs)) if isinstance(value, ARRAY)]
    of = {id(inference.info(child).value): child for child in made_of_sources(node.inputs)}
    for k, (embedding, size) in rows_taken(runner.tree, path, (args, kwargs)).items():
        child = of.get(id(arrays[k]))
        if child is not None:
            yield Index(node, Along(child, 0), (size,), {}, embedding)


def check_given(
    indices: tuple[Index, ...], graph: Graph, params: Mapping[str, Any], call: Call
) -> None:
    """Raise BoundsError where arrays that a run is given index outside."""
    for node, index, shape, others, embedding, given in indices:
        inputs = {one: call.without_padding(k) for one, k in given.items()}
        values = known_values(nodes_in(index), graph.constants, params, inputs)
        known = defaultdict(lambda: UNKNOWN, {**others, **values})
        try:
            check_frozen(index, shape, known.__getitem__)
        except Outside as outside:
            where = line_of(graph, node)
            if embedding:
                raise VocabularyError(
                    outside.index, embedding, outside.size, where, False
                ) from None
            refuse(outside, where)


def written_ids(indices: tuple[Index, ...]) -> tuple[Index, ...]:
    """Those that were not checked as they were recorded: what is written over a call's own ids."""
    return tuple(index for index in indices if index.given)


def line_of(graph: Graph, node: Node) -> str:
    """Where the user wrote a node of a graph, as errors say it."""
    note = graph.notes.get(node)
    return (note and note.where) or "a deferred edit of the graph"


def _check_fits(node: Node, inference: Inference, graph: Graph) -> None:
    """A recorded write has the shape of the part it goes into; MLX would broadcast another one."""
    base, index, value = node.args
    parts = [Node(ops.GETITEM, (base, index)), value]
    if any(type(part) is not Node for part in parts) or runs_functions(value, inference):
        return
    try:
        part, given = [inference.info(one).value for one in parts]
    except FOR_THE_RUN:
        return
    if isinstance(part, ARRAY) and isinstance(given, ARRAY) and part.shape != given.shape:
        raise ShapeError(
            f"what is written is {given.shape}, and the part that it goes into {part.shape}",
            line_of(graph, node),
            "It was recorded with inputs of another shape; record it again with these.",
        )


FOR_THE_RUN = (MLXGraphError, NodeFailure, RuntimeError, ValueError, TypeError, LookupError)


def runs_functions(node: Node, inference: Inference) -> bool:
    """Whether a node's shape is not known, and a function would have to be called to know it."""
    if node in inference.infos:
        return False
    return any(n.op == ops.APPLY and n not in inference.infos for n in walk([node]))


def _shape(node: Node, inference: Inference) -> Shape | None:
    """The shape of what a node indexes; None where only the run will know.

    A function given to `mg.apply` is not called for this, and whatever else does not fit these
    inputs is for the run to say.
    """
    base = (indexed(node.op, node.args, node.kwargs) or (None,))[0]
    if type(base) is not Node:
        return None
    known = inference.infos.get(base)
    if known is None:
        if runs_functions(base, inference):
            return None
        try:
            known = inference.info(base)
        except FOR_THE_RUN:
            return None
    return known.value.shape if isinstance(known.value, ARRAY) else None
