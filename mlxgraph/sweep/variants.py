"""The variants of a sweep: graphs, or values of one graph's params, as runs on one call.

In: what the user gave.  Out: a `Variant` each, with everything checked that can be before a run.
Never: runs anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InputError, MissingParamError, UnknownNameError
from mlxgraph.graph.deferred import is_resolved
from mlxgraph.graph.graph import Graph, graph_in, graph_of
from mlxgraph.graph.node import Node
from mlxgraph.record.param import filled, holes
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.trace.execute import wanted_of
from mlxgraph.trace.trace import Trace

Axes = dict[str, tuple[Any, ...]]


class Variant(NamedTuple):
    """One run of a sweep: a graph without deferred edits, and the values of its params."""

    graph: Graph
    wanted: tuple[Node, ...]
    params: Mapping[str, Any]


class Given(NamedTuple):
    """What a sweep is of: the graphs and the values of each one's params, and the axes of the
    results."""

    graphs: list[Graph]
    params: list[Mapping[str, Any]]
    axes: Axes


def given_of(graphs: Any, over: Any) -> Given:
    """The graphs and the grid that a user gave.

    Raises: InputError for nothing to run, or what is no graph; UnknownNameError for a param.
    """
    one = graph_in(graphs)
    if over is not None:
        return _grid(one, graphs, over)
    if one is not None:
        return Given([one], [{}], {"variant": (0,)})
    if isinstance(graphs, Mapping):
        return _listed([*graphs.values()], tuple(graphs))
    if isinstance(graphs, (str, bytes)) or not isinstance(graphs, Iterable):
        graph_of(graphs)  # says what is needed
    listed = list(graphs)
    return _listed(listed, tuple(range(len(listed))))


def _listed(graphs: list[Any], labels: tuple[Any, ...]) -> Given:
    if not graphs:
        raise InputError(
            "there is nothing to sweep: no graphs were given.\n"
            "  Write model.sweep(x, [g1, g2]), or model.sweep(x, g, over={'alpha': [0.0, 1.0]})."
        )
    found = [graph_of(graph) for graph in graphs]
    return Given(found, [{}] * len(found), {"variant": labels})


def _grid(graph: Graph | None, given: Any, over: Any) -> Given:
    if graph is None:
        kind = "several graphs" if isinstance(given, (list, tuple, dict)) else repr(type(given))
        raise InputError(
            f"over= gives the params of one graph their values, and was given {kind}.\n"
            "  Write model.sweep(x, g, over={'alpha': [0.0, 1.0]}), or bind the params yourself:"
            " [g.bind(alpha=a) for a in values]."
        )
    if not isinstance(over, Mapping) or not over:
        raise InputError(
            f"over= takes values by the params' names, not {over!r:.60}.\n"
            "  Write model.sweep(x, g, over={'alpha': [0.0, 1.0]})."
        )
    values = {str(name): _values(str(name), listed) for name, listed in over.items()}
    if not graph.then:  # a deferred edit may show its params only once it meets the model
        for name in values:
            if name not in graph.params:
                raise UnknownNameError("param", name, graph.params)
    grid = product(*values.values())
    cells: list[Mapping[str, Any]] = [dict(zip(values, cell, strict=True)) for cell in grid]
    axes = {name: tuple(map(_label, listed, range(len(listed)))) for name, listed in values.items()}
    return Given([graph] * len(cells), cells, axes)


def _values(name: str, listed: Any) -> Sequence[Any]:
    """The values along one axis of the grid: the rows of an array, or the entries of a list."""
    if isinstance(listed, (mx.array, np.ndarray)) and listed.ndim:
        listed = [listed[k] for k in range(listed.shape[0])]
    is_one = isinstance(listed, (str, bytes, Mapping, mx.array, np.ndarray))
    if is_one or not isinstance(listed, Iterable):
        raise InputError(
            f"over= takes a list of values for {name!r}, not {listed!r:.60}.\n"
            f"  Write over={{{name!r}: [{listed!r:.30}]}} for one value."
        )
    found = list(listed)
    if not found:
        raise InputError(f"over= has no values for {name!r}: there is nothing to run.")
    return found


def _label(value: Any, number: int) -> Any:
    """What names a value along its axis: a number itself, an array by its place in the list."""
    if isinstance(value, (mx.array, np.ndarray, np.generic)) and not getattr(value, "ndim", 0):
        value = value.item()
    return value if isinstance(value, (bool, int, float, str)) else number


def variants_of(
    engine: Engine, call: Call, given: Given, shared: Mapping[str, Any]
) -> list[Variant]:
    """Each run of a sweep, on one call.

    Args:
        engine: with the edits that stay on the model; they come before each graph.
        shared: values of params that are the same in each run that has them.
    Raises: what a run of the graph would raise before it computes anything.
    """
    known: dict[int, tuple[Graph, tuple[Node, ...], dict[str, Node]]] = {}
    found = []
    for graph, params in zip(given.graphs, given.params, strict=True):
        if id(graph) not in known:
            whole = engine.after_edits(graph)
            if not is_resolved(whole):
                whole = Trace(engine.with_edits(Graph()), call, graph=whole).recorded()
            known[id(graph)] = (whole, wanted_of(whole), holes(whole))
        whole, wanted, wanting = known[id(graph)]
        own = {name: value for name, value in shared.items() if name in wanting}
        values = filled(wanting, {**own, **params})
        for name in wanting:
            if name not in values:
                raise MissingParamError(name)
        found.append(Variant(whole, wanted, values))
    every = {name for _, _, wanting in known.values() for name in wanting}
    for name in shared:
        if name not in every and given.axes:
            raise UnknownNameError("param", name, every)
    return found
