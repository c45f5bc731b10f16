"""Whole numbers of a graph that meets a call: each fits into the dtype of the array that it meets.

Eager MLX refuses one that does not, and a compiled run, whose input it is, would let it wrap
around.  A graph may have been recorded on a wider dtype, or may be given the number only now.

In: a graph as it was written, a census.  Out: the numbers to be checked with each run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlxgraph.errors import MLXGraphError
from mlxgraph.evaluate.known import known_values, made_of_sources
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, is_number, walk
from mlxgraph.mlx_facts.dtypes import whole_range
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.conform import check_number
from mlxgraph.record.inference import Inference
from mlxgraph.run.runner import Runner
from mlxgraph.trace.indices import FOR_THE_RUN, line_of, runs_functions


class Number(NamedTuple):
    """A node, a number among its arguments, and the array that the number meets."""

    node: Node
    number: Node
    array: Any  # a placeholder


def numbers_in(
    graph: Graph, wanted: tuple[Node, ...], census: Census, runner: Runner
) -> tuple[Number, ...]:
    """The numbers of a graph that meet arrays of whole numbers in this forward."""
    nodes = [*walk([*wanted, *[node for _, node in graph.writes]])]
    meeting = [node for node in nodes if any(map(is_number, node.inputs))]
    if not meeting:
        return ()
    inference = Inference(census, runner.modules, lambda site: None, list(graph.constants))
    found = []
    for node in meeting:
        numbers = [one for one in node.inputs if is_number(one) and made_of_sources([one])]
        first = 1 if node.op == ops.MX_WHERE else 0  # its condition has no part in the dtype
        others = [a for a in node.args[first:] if type(a) is Node and not is_number(a)]
        array = _array(others[0], inference) if others and numbers else None
        if array is not None and whole_range(array.dtype) is not None:
            found += [Number(node, one, array) for one in numbers]
    return tuple(found)


def _array(node: Node, inference: Inference) -> Any:
    if runs_functions(node, inference):
        return None
    try:
        value = inference.info(node).value
    except FOR_THE_RUN:
        return None
    return value if isinstance(value, ARRAY) else None


def check_numbers(numbers: tuple[Number, ...], graph: Graph, params: Mapping[str, Any]) -> None:
    """Raise OperationError where a number of this run does not fit."""
    values = known_values([one.number for one in numbers], graph.constants, params)
    for node, number, array in numbers:
        try:
            check_number(node.op, values.get(number), array)
        except MLXGraphError as error:
            error.args = (f"{error}\n  written at {line_of(graph, node)}",)
            raise
