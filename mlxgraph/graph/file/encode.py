"""Graph -> plain JSON values, with the arrays put aside.

    {"nodes": [[op, args, kwargs?], ...],      inputs before users; {"node": k} is the k-th
     "notes": [[where, shape, dtype] | null],  one for each node
     "writes": [[[path, port, call], k], ...],
     "saves": [[name, k], ...],
     "constants": [number | {"array": k}, ...],
     "then": [{"edit": ...} | {"read": ...} | {"graph": ...}, ...]}

In arguments a JSON list is a tuple; what JSON has no word for is an object with one key:
`node`, `list`, `dict`, `slice`, `dtype`, `literal`, `ellipsis`, `float`, `complex`.
Never: follows nodes by recursion (a graph may be 10,000 deep), or looks into an array.
"""

from __future__ import annotations

import math
from typing import Any

from mlxgraph.errors import GraphFileError, OpaqueError
from mlxgraph.graph.deferred import Edit, Read, function_name, is_graph
from mlxgraph.graph.file.fields import DEEPEST, MOST_NESTED
from mlxgraph.graph.listing import opaque_name
from mlxgraph.graph.named import is_array, param_node, spec
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import Device, DType, FrozenDict, FrozenList, Literal, Opaque, Slice


class Encoder:
    """Turns one graph into JSON values; `arrays` fills up with its arrays, each object once."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self._indices: dict[int, int] = {}

    def graph(self, graph: Any, depth: int = 0) -> dict[str, Any]:
        """One graph.

        Raises: OpaqueError for a Python function that is not known by name, GraphFileError for
            any other value that a file cannot hold.
        """
        if depth > MOST_NESTED:
            raise GraphFileError(f"graphs are nested more than {MOST_NESTED} deep")
        nodes = graph.nodes()
        notes = [graph.notes.get(node) for node in nodes]
        index = {node: k for k, node in enumerate(nodes)}
        return {
            "nodes": [self._node(*pair, index) for pair in zip(nodes, notes, strict=True)],
            "notes": [_note(note) for note in notes],
            "writes": [[list(site), index[node]] for site, node in graph.writes],
            "saves": [[name, index[node]] for name, node in graph.saves],
            "constants": [self._constant(value) for value in graph.constants],
            "then": [self._deferred(one, depth) for one in graph.then],
        }

    def _node(self, node: Node, note: Any, index: dict[Node, int]) -> list[Any]:
        where = note.where if note else ""
        parts: list[Any] = [node.op, [_value(a, index, where) for a in node.args]]
        if node.kwargs:
            parts.append({name: _value(a, index, where) for name, a in node.kwargs})
        return parts

    def _constant(self, value: Any) -> Any:
        return self._array(value) if is_array(value) else _scalar(value)

    def _array(self, array: Any) -> dict[str, int]:
        k = self._indices.setdefault(id(array), len(self.arrays))
        if k == len(self.arrays):
            self.arrays.append(array)
        return {"array": k}

    def _deferred(self, deferred: Any, depth: int) -> dict[str, Any]:
        if isinstance(deferred, Edit):
            where, positions = deferred.where, deferred.positions
            fields = deferred._asdict()
            fields["function"] = self._function(deferred.function, where, 0)
            if isinstance(positions, slice):
                positions = Slice(positions.start, positions.stop, positions.step)  # type: ignore
            fields["positions"] = _value(positions, {}, where)
            fields["heads"] = None if deferred.heads is None else list(deferred.heads)
            return {"edit": fields}
        if isinstance(deferred, Read):
            return {"read": deferred._asdict()}
        if is_graph(deferred):
            return {"graph": self.graph(deferred, depth + 1)}
        raise GraphFileError(f"a {type(deferred).__name__} is no edit, read or graph")

    def _function(self, function: Any, where: str, depth: int) -> list[Any]:
        known = spec(function)
        if known is None or depth > DEEPEST:
            raise opaque(function_name(function), where, OF_AN_EDIT)
        name, arguments = known
        if arguments is None:
            return [name]
        return [name, [self._argument(value, where, depth) for value in arguments]]

    def _argument(self, value: Any, where: str, depth: int) -> Any:
        hole = param_node(value)
        if hole is not None:
            return {"param": _value(hole.args, {}, where)}
        if is_array(value):
            return self._array(value)
        if callable(value):
            return {"function": self._function(value, where, depth + 1)}
        return _value(_frozen(value), {}, where)


OF_AN_EDIT = (
    "Resolve the edit on a model, which records what the function does: `with model.trace(x,"
    " graph=g) as t: pass`, and save t.graph; or use one of mlxgraph.interventions."
)
OF_A_NODE = (
    "Write it with functions of mlx.core, so that what it does is recorded, or use one of"
    " mlxgraph.interventions."
)


def opaque(name: str, where: str, advice: str = OF_A_NODE) -> OpaqueError:
    """The error for a Python function in a graph that is to be saved."""
    return OpaqueError(
        f"this graph holds {name}, a Python object that a file cannot hold.\n"
        f"  at {where or 'an unknown line'}\n  {advice}"
    )


def _note(note: Any) -> list[Any] | None:
    if note is None:
        return None
    return [str(note.where), None if note.shape is None else list(note.shape), note.dtype]


def _frozen(value: Any) -> Any:
    """Lists and slices among a named function's arguments, as arguments of nodes hold them."""
    if type(value) is list:
        return FrozenList(tuple(_frozen(item) for item in value))
    if type(value) is tuple:
        return tuple(_frozen(item) for item in value)
    if type(value) is slice:
        return Slice(value.start, value.stop, value.step)
    return value


def _value(value: Any, index: dict[Node, int], where: str, depth: int = 0) -> Any:
    """One frozen argument."""
    if depth > DEEPEST:
        raise GraphFileError(f"an argument is nested more than {DEEPEST} deep, at {where}")

    def inner(items: Any) -> list[Any]:
        return [_value(item, index, where, depth + 1) for item in items]

    kind = type(value)
    if kind is Node:
        return {"node": index[value]}
    if value is None or kind is str:
        return value
    if kind is tuple:
        return inner(value)
    if kind is Slice:
        return {"slice": inner(value.value)}
    if kind is Literal:
        return {"literal": _scalar(value.value)}
    if kind is FrozenList:
        return {"list": inner(value.value)}
    if kind is FrozenDict:
        return {"dict": [inner(pair) for pair in value.value]}
    if kind is DType:
        return {"dtype": value.value}
    if kind is Device:
        return {"device": value.value}
    if value is Ellipsis:
        return {"ellipsis": True}
    if kind is Opaque:
        raise opaque(opaque_name(value.value), where)
    return _scalar(value)


def _scalar(value: Any) -> Any:
    """A Python number, exactly."""
    kind = type(value)
    if kind is bool or kind is int:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is complex:
        return {"complex": [_scalar(value.real), _scalar(value.imag)]}
    raise GraphFileError(f"a {kind.__name__} has no form on disk: {value!r:.80}")
