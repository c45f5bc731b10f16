"""Plain JSON values -> Graph, believing nothing.

In: what a file says, and its arrays.  Out: a Graph.
Here every field is checked for its type and its order before it is used, and the verifier
(`graph.check`) says of every node, before another is built on it, and of the whole whether it
means something.  Whatever is not as `file.encode` writes it raises GraphFileError.
Never: runs or imports anything that the file names.  Operations and functions are looked up in
tables that were filled when the library was imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

from mlxgraph.errors import GraphFileError
from mlxgraph.graph import check, named, ops
from mlxgraph.graph.base import G, Note
from mlxgraph.graph.check_nodes import (
    arguments_are_enough,
    draws_are_numbered,
    dtype_fault,
    param_fault,
)
from mlxgraph.graph.deferred import Edit, Read
from mlxgraph.graph.file.fields import (
    DEEPEST,
    MOST_NESTED,
    bad,
    listed,
    only,
    record,
    row,
    scalar,
    site,
    sound,
    text,
    unique,
)  # fmt: skip
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import DEVICES, Device, DType, FrozenDict, FrozenList, Literal, Slice

MOST_NODES = 200_000
# Of the verifier's rules, those that reading does not settle by itself.  Arguments are frozen as
# they are read, but for the bare numbers that a rewrite rule written by hand may have left.
_NODE_RULES = (arguments_are_enough, draws_are_numbered)
_FORM_RULES = (check.writes_are_sites_and_nodes, check.saves_are_names_and_nodes)
# Those that look at each node once: a hostile file must not take long.  A run checks the order.
_WHOLE_RULES = (check.params_agree, check.gradients_are_of_the_forward)
_NAMED = ops.STORABLE | ops.SOURCES | {ops.CALL, ops.GRAD}
_KEYS = (str, int, float, bool, type(None), tuple)


class Decoder(Generic[G]):
    """Builds one graph.

    Args:
        arrays: the file's arrays, in their order.
        make: what to build graphs with.
    """

    def __init__(self, arrays: Sequence[Any], make: type[G]):
        self._arrays = arrays
        self._make = make
        self._nodes_left = MOST_NODES

    def graph(self, data: Any, depth: int = 0) -> G:
        """One graph.  Raises: GraphFileError."""
        if depth > MOST_NESTED:
            bad(f"graphs are nested more than {MOST_NESTED} deep")
        keys = ("nodes", "notes", "writes", "saves", "constants", "then")
        fields = [listed(value, keys[k]) for k, value in enumerate(record(data, keys, "a graph"))]
        constants = [self._constant(value) for value in fields[4]]
        nodes = self._nodes(fields[0], constants)
        notes = self._notes(fields[1], nodes)
        writes = [self._write(pair, nodes) for pair in fields[2]]
        saves = [self._save(pair, nodes) for pair in fields[3]]
        then = [self._deferred(one, depth) for one in fields[5]]
        graph = self._make(writes, saves, constants, notes, then)
        for fault in check.form_faults(graph, _FORM_RULES):
            sound(fault)
        for fault in check.whole_faults(graph, graph.nodes(), _WHOLE_RULES):
            sound(fault)
        return graph

    # -- nodes ----------------------------------------------------------------------------

    def _nodes(self, data: list, constants: list[Any]) -> list[Node]:
        self._nodes_left -= len(data)
        if self._nodes_left < 0:
            bad(f"it has more than {MOST_NODES:,} nodes")
        nodes: list[Node] = []
        for k, entry in enumerate(data):
            try:
                nodes.append(self._node(entry, nodes, constants))
            except GraphFileError as error:
                raise GraphFileError(f"node {k}: {error}") from None
        return nodes

    def _node(self, entry: Any, nodes: list[Node], constants: list[Any]) -> Node:
        parts = listed(entry, "a node")
        if len(parts) not in (2, 3):
            bad("a node is an operation, its arguments and perhaps its keywords")
        op = text(parts[0], "an operation")
        args = tuple([self._value(a, nodes) for a in listed(parts[1], "arguments")])
        kwargs: tuple = ()
        if len(parts) == 3:
            keywords = parts[2] if type(parts[2]) is dict else bad("keywords are no object")
            for name in keywords:
                if not name.isidentifier():
                    bad(f"{name[:80]!r} is no keyword")
            kwargs = tuple([(name, self._value(a, nodes)) for name, a in keywords.items()])
        if op not in _NAMED:
            bad(f"there is no operation {op[:80]!r}")
        node = Node(op, args, kwargs)
        fault = check.node_fault(node, constants, _NODE_RULES)
        sound(fault and fault.what)
        return node

    @staticmethod
    def _item(k: Any, items: Sequence[Any], what: str) -> Any:
        """The item that an index means; indices count from 0."""
        if type(k) is not int or not 0 <= k < len(items):
            bad(f"there is no {what} {k!r:.40} here")
        return items[k]

    # -- arguments ------------------------------------------------------------------------

    def _value(self, value: Any, nodes: list[Node], depth: int = 0) -> Any:
        """One frozen argument; it may use only the nodes so far."""
        if depth > DEEPEST:
            bad(f"an argument is nested more than {DEEPEST} deep")
        if value is None or type(value) is str:
            return value if value is None else text(value, "an argument")
        if type(value) is list:
            return tuple([self._value(item, nodes, depth + 1) for item in value])
        if type(value) is not dict:
            return scalar(value)
        tag, inside = only(value)
        if tag == "node":
            return self._item(inside, nodes, "node before it with number")
        if tag == "dtype":
            sound(dtype_fault(inside))
            return DType(inside)
        if tag == "device":
            return Device(inside) if inside in DEVICES else bad(f"no device {inside!r:.40}")
        if tag == "literal":
            number = scalar(inside)
            return Literal(number) if type(number) is not int else bad("an int is no literal")
        if tag == "ellipsis":
            return Ellipsis
        if tag in ("float", "complex"):
            return scalar(value)
        if tag not in ("slice", "list", "dict"):
            bad(f"there is no kind of argument {tag[:40]!r}")
        items = tuple([self._value(i, nodes, depth + 1) for i in listed(inside, f"a {tag}")])
        if tag == "list":
            return FrozenList(items)
        if tag == "slice":
            return Slice(*items) if len(items) == 3 else bad("a slice has three parts")
        for item in items:
            if type(item) is not tuple or len(item) != 2 or type(item[0]) not in _KEYS:
                bad("a dict is made of keys and values")
        unique([key for key, _ in items], "keys")
        return FrozenDict(items)

    def _constant(self, value: Any) -> Any:
        if type(value) is dict and "array" in value:
            return self._array(value)
        return scalar(value)

    def _array(self, value: dict) -> Any:
        return self._item(only(value)[1], self._arrays, "array")

    # -- what the graph does ------------------------------------------------------------------

    def _notes(self, data: list, nodes: list[Node]) -> dict[Node, Any]:
        if len(data) != len(nodes):
            bad("its notes are not one for each node")
        return {n: self._note(d) for n, d in zip(nodes, data, strict=True) if d is not None}

    def _note(self, data: Any) -> Note:
        where, shape, dtype = row(data, 3, "a note")
        note = Note(where, None if shape is None else tuple(listed(shape, "a shape")), dtype)
        sound(check.note_fault(*note))
        return note

    def _write(self, data: Any, nodes: list[Node]) -> tuple[Site, Node]:
        written, k = row(data, 2, "a write")
        return site(listed(written, "a site")), self._item(k, nodes, "node")

    def _save(self, data: Any, nodes: list[Node]) -> tuple[str, Node]:
        name, k = row(data, 2, "a save")
        return text(name, "a save"), self._item(k, nodes, "node")

    def _deferred(self, data: Any, depth: int) -> Any:
        kind, inside = only(data if type(data) is dict else bad("an edit or a read is no object"))
        if kind == "graph":
            return self.graph(inside, depth + 1)
        if kind not in ("edit", "read"):
            bad(f"there is no kind of edit or read {kind[:40]!r}")
        form = Edit if kind == "edit" else Read
        fields = dict(zip(form._fields, record(inside, form._fields, f"a {kind}"), strict=True))
        if form is Edit:
            fields["function"] = self._function(fields["function"], 0)
            fields["positions"] = self._positions(fields["positions"])
            if fields["heads"] is not None:
                fields["heads"] = tuple(listed(fields["heads"], "heads"))
        deferred = form(**fields)
        sound(check.deferred_is_an_edit_or_a_read(deferred))
        return deferred

    def _positions(self, data: Any) -> Any:
        value = self._value(data, [])
        return slice(*value.value) if type(value) is Slice else value

    # -- functions known by name -----------------------------------------------------------

    def _function(self, data: Any, depth: int) -> Any:
        if depth > DEEPEST:
            bad(f"functions are nested more than {DEEPEST} deep")
        parts = listed(data, "a function")
        if len(parts) not in (1, 2):
            bad("a function is a name and perhaps its arguments")
        name = text(parts[0], "a function")
        arguments = None
        if len(parts) == 2:
            given = listed(parts[1], "arguments")
            arguments = tuple([self._argument(value, depth) for value in given])
        try:
            return named.make(name, arguments)
        except KeyError:
            bad(f"there is no function {name[:80]!r}")
        except Exception as error:  # whatever a maker says of arguments it cannot use
            raise GraphFileError(f"{name} does not take these arguments: {error}") from error

    def _argument(self, value: Any, depth: int) -> Any:
        if type(value) is dict:
            tag, inside = only(value)
            if tag == "array":
                return self._array(value)
            if tag == "function":
                return self._function(inside, depth + 1)
            if tag == "param":
                args = self._value(row(inside, 3, "a param"), [])
                sound(param_fault(*args))
                return named.hole(*args)
        return _thawed(self._value(value, []))


def _thawed(value: Any) -> Any:
    """A named function's argument as Python gave it."""
    if type(value) is FrozenList:
        return [_thawed(item) for item in value.value]
    if type(value) is tuple:
        return tuple(_thawed(item) for item in value)
    if type(value) is Slice:
        return slice(*value.value)
    return value
