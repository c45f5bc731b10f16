"""Plain JSON values -> Graph, believing nothing.

In: what a file says, its arrays, and the closed table of operations.  Out: a Graph.
Every field is checked for its type, its range and its order before it is used; whatever is not
as `graph.encode` writes it raises GraphFileError.
Never: runs or imports anything that the file names.  Operations and functions are looked up in
tables that were filled when the library was imported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from mlxgraph.errors import GraphFileError
from mlxgraph.graph import named
from mlxgraph.graph.deferred import Edit, Read
from mlxgraph.graph.file.encode import DEEPEST, MOST_NESTED
from mlxgraph.graph.file.fields import (
    LARGEST_DIM,
    bad,
    checked_shape,
    listed,
    only,
    record,
    row,
    scalar,
    site,
    text,
    unique,
    whole,
    wholes,
)  # fmt: skip
from mlxgraph.graph.node import APPLY, CALL, CONSTANT, GRAD, NUMBER, PARAM, SITE, Node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import DType, FrozenDict, FrozenList, Literal, Slice

MOST_NODES = 200_000
NUMBERS = {"int": int, "float": float, "bool": bool}
# How many arguments an operation of the library's own has at least; whose text relies on it.
FEWEST = {
    "getitem": 2, "item": 2, "update": 3, "put": 3, "leaf": 2, "unflatten_like": 1,
    "reshape_like": 2, "broadcast_like": 2, "astype_like": 2, "full_like": 2, "split_part": 4,
    "array.invert": 1, "array.and": 2, "array.or": 2, "array.xor": 2,
}  # fmt: skip
_KEYS = (str, int, float, bool, type(None), tuple)


class Decoder:
    """Builds one graph.

    Args:
        arrays: the file's arrays, in their order.
        operations: the names that a node may have, besides leaves and module calls.
        dtypes: the names that a dtype may have.
        make, note: what to build graphs and notes with.
    """

    def __init__(
        self,
        arrays: Sequence[Any],
        operations: Collection[str],
        dtypes: Collection[str],
        make: Callable[..., Any],
        note: Callable[..., Any],
    ):
        self._arrays = arrays
        self._operations = operations
        self._dtypes = dtypes
        self._make = make
        self._new_note = note
        self._nodes_left = MOST_NODES

    def graph(self, data: Any, depth: int = 0) -> Any:
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
        unique([site for site, _ in writes], "writes to a site")
        unique([name for name, _ in saves], "saves")
        then = [self._step(step, depth) for step in fields[5]]
        return self._make(writes, saves, constants, notes, then)

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
        self._check(op, args, kwargs, constants)
        return Node(op, args, kwargs)

    def _check(self, op: str, args: tuple, kwargs: tuple, constants: list[Any]) -> None:
        """Whether a node has what its operation needs to be printed, planned and run."""
        leaf = {SITE: self._site, CONSTANT: self._array_leaf, NUMBER: self._number_leaf}.get(op)
        if leaf is not None or op == PARAM:
            if kwargs or len(args) != (2 if op == NUMBER else 3):
                bad(f"a {op} has other arguments")
            if leaf is not None:
                leaf(args, constants)
            else:
                self._param(args)
        elif op == CALL:
            if not args or type(args[0]) is not str:
                bad("a call names no module")
        elif op == GRAD:
            if kwargs or [type(argument) for argument in args] != [Node, Node]:
                bad("a gradient is of one node, at another")
        elif op == APPLY or op not in self._operations:
            bad(f"there is no operation {op[:80]!r}")
        elif len(args) < FEWEST.get(op, 3 if op.startswith("at.") else 0):
            bad(f"{op} has too few arguments")
        elif op.startswith("mx.random.") and not args:
            bad(f"{op} has no number")

    def _site(self, args: tuple, constants: list[Any]) -> None:
        site(list(args))

    def _array_leaf(self, args: tuple, constants: list[Any]) -> None:
        k, shape, dtype = args
        self._place(k, constants, "constant")
        value = constants[k]
        if not named.is_array(value):
            bad(f"constant {k} is a number, and used as an array")
        if type(shape) is not tuple or shape != tuple(value.shape):
            bad(f"constant {k} has another shape")
        if type(dtype) is not str or dtype.rstrip("_") != dtype_name(value).rstrip("_"):
            bad(f"constant {k} has another dtype")

    def _number_leaf(self, args: tuple, constants: list[Any]) -> None:
        k, kind = args
        self._place(k, constants, "constant")
        if type(kind) is not str or type(constants[k]) is not NUMBERS.get(kind):
            bad(f"constant {k} is no {kind!r:.20}")

    def _param(self, args: tuple) -> None:
        name, shape, dtype = args
        if not text(name, "a param").isidentifier():
            bad(f"{name[:80]!r} can name no param")
        if shape is not None:
            checked_shape(shape if type(shape) is tuple else bad("a param's shape is no tuple"))
        if dtype is not None:
            self._dtype(dtype)

    def _dtype(self, name: Any) -> str:
        if type(name) is not str or name not in self._dtypes:
            bad(f"there is no dtype {name!r:.40}")
        return name

    @staticmethod
    def _place(k: Any, items: Sequence[Any], what: str) -> Any:
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
            return self._place(inside, nodes, "node before it with number")
        if tag == "dtype":
            return DType(self._dtype(inside))
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
        return self._place(only(value)[1], self._arrays, "array")

    # -- what the graph does ------------------------------------------------------------------

    def _notes(self, data: list, nodes: list[Node]) -> dict[Node, Any]:
        if len(data) != len(nodes):
            bad("its notes are not one for each node")
        return {n: self._note(d) for n, d in zip(nodes, data, strict=True) if d is not None}

    def _note(self, data: Any) -> Any:
        where, shape, dtype = row(data, 3, "a note")
        if dtype is not None:
            self._dtype(dtype)
        if shape is not None:
            shape = checked_shape(tuple(listed(shape, "a shape")))
        return self._new_note(text(where, "a note"), shape, dtype)

    def _write(self, data: Any, nodes: list[Node]) -> tuple[Site, Node]:
        place, k = row(data, 2, "a write")
        return site(listed(place, "a site")), self._place(k, nodes, "node")

    def _save(self, data: Any, nodes: list[Node]) -> tuple[str, Node]:
        name, k = row(data, 2, "a save")
        return text(name, "a save"), self._place(k, nodes, "node")

    def _step(self, data: Any, depth: int) -> Any:
        kind, inside = only(data if type(data) is dict else bad("a step is no object"))
        if kind == "graph":
            return self.graph(inside, depth + 1)
        if kind not in ("edit", "read"):
            bad(f"there is no step {kind[:40]!r}")
        form = Edit if kind == "edit" else Read
        fields = dict(zip(form._fields, record(inside, form._fields, f"a {kind}"), strict=True))
        for name in ("pattern", "where", "port"):
            text(fields[name], name)
        if not fields["port"].isidentifier():
            bad(f"there is no port {fields['port'][:40]!r}")
        expect = fields["expect"]
        if expect is not None and not whole(expect, 0, LARGEST_DIM):
            bad("`expect` is no count")
        if form is Read:
            if fields["name"] is not None:
                text(fields["name"], "a save")
            return Read(**fields)
        fields["function"] = self._function(fields["function"], 0)
        fields["positions"] = self._positions(fields["positions"])
        if fields["heads"] is not None:
            fields["heads"] = wholes(listed(fields["heads"], "heads"), "heads")
        return Edit(**fields)

    def _positions(self, data: Any) -> Any:
        value = self._value(data, [])
        if type(value) is Slice:
            wholes([part for part in value.value if part is not None], "positions")
            return slice(*value.value)
        if type(value) is tuple:
            return wholes(value, "positions")
        if value is not None:
            wholes([value], "positions")
        return value

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
                self._param(args)
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


def dtype_name(array: Any) -> str:
    """`mx.float32` -> `"float32"`"""
    return str(array.dtype).rpartition(".")[2]
