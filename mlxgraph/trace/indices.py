"""Indices of a graph that meets a call: each is checked before anything runs.

A graph may have been recorded on a longer text or a larger batch.  What its indices are is in the
graph; how large the arrays are, the census says.

In: a graph as it was written, a census.  Out: nothing, or a BoundsError on the user's line; and
the indices whose numbers come with each run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mlxgraph.errors import MLXGraphError, ShapeError
from mlxgraph.evaluate.bounds import (
    INDEXES,
    UNKNOWN,
    Outside,
    Shape,
    check_node,
    indexed,
    values_of_index,
)
from mlxgraph.evaluate.values import NodeFailure, source_values
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, walk
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.bounds import refuse
from mlxgraph.record.inference import Inference


class Index(NamedTuple):
    """An index some of whose numbers are inputs of the run, and the shape it goes into."""

    node: Node
    shape: Shape
    others: dict[Node, Any]  # placeholders of what else it is made of


def check_indices(
    graph: Graph, wanted: tuple[Node, ...], census: Census, modules: Callable[[], Any]
) -> tuple[Index, ...]:
    """Raise BoundsError where a graph would index outside of an array of this forward.

    Returns: the indices that arrays from outside are part of, to be checked with their values.
    """
    nodes = [*walk([*wanted, *[node for _, node in graph.writes]])]
    if not any(node.op in INDEXES for node in nodes):
        return ()
    inference = Inference(census, modules, lambda site: None, list(graph.constants))
    found = []
    for node in nodes:
        shape = _shape(node, inference) if node.op in INDEXES else None
        if shape is None:
            continue
        others = {n: inference.infos[n].value for n in node.inputs if n in inference.infos}
        try:
            check_node(node, shape, defaultdict(lambda: UNKNOWN, others).__getitem__)
        except Outside as outside:
            refuse(outside, line_of(graph, node))
        if node.op == ops.UPDATE:
            _check_fits(node, inference, graph)
        if any(True for _ in values_of_index(node)):
            found.append(Index(node, shape, others))
    return tuple(found)


def check_given(indices: tuple[Index, ...], graph: Graph, params: Mapping[str, Any]) -> None:
    """Raise BoundsError where arrays that a run is given index outside."""
    for node, shape, others in indices:
        given = [n for n in values_of_index(node) if n.op != ops.PARAM or n.args[0] in params]
        values = source_values(given, graph.constants, params)
        known = defaultdict(lambda: UNKNOWN, {**others, **values})
        try:
            check_node(node, shape, known.__getitem__)
        except Outside as outside:
            refuse(outside, line_of(graph, node))


def line_of(graph: Graph, node: Node) -> str:
    """Where the user wrote a node of a graph, as errors say it."""
    note = graph.notes.get(node)
    return (note and note.where) or "a deferred edit of the graph"


def _check_fits(node: Node, inference: Inference, graph: Graph) -> None:
    """A recorded write has the shape of the part it goes into; MLX would broadcast another one."""
    base, index, value = node.args
    parts = [Node(ops.GETITEM, (base, index)), value]
    if any(type(part) is not Node for part in parts) or _runs_functions(value, inference):
        return
    try:
        part, given = [inference.info(one).value for one in parts]
    except _FOR_THE_RUN:
        return
    if isinstance(part, ARRAY) and isinstance(given, ARRAY) and part.shape != given.shape:
        raise ShapeError(
            f"what is written is {given.shape}, and the part that it goes into {part.shape}",
            line_of(graph, node),
            "It was recorded with inputs of another shape; record it again with these.",
        )


_FOR_THE_RUN = (MLXGraphError, NodeFailure, RuntimeError, ValueError, TypeError, LookupError)


def _runs_functions(node: Node, inference: Inference) -> bool:
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
        if _runs_functions(base, inference):
            return None
        try:
            known = inference.info(base)
        except _FOR_THE_RUN:
            return None
    return known.value.shape if isinstance(known.value, ARRAY) else None
