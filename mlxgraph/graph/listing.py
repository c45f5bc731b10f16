"""A graph as a page that a person can read.

One line a node, in the order in which a run could compute them: number, expression, shape,
dtype, and the line of the user's file it came from.  Long expressions are wrapped, and of very
long graphs the middle is left out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mlxgraph.graph import ops
from mlxgraph.graph.base import GraphBase
from mlxgraph.graph.deferred import Edit, Read, is_graph
from mlxgraph.graph.node import Node, is_draw, site_of
from mlxgraph.graph.site import INPUTS
from mlxgraph.graph.values import (
    Device,
    DType,
    FrozenDict,
    FrozenList,
    Literal,
    Opaque,
    Slice,
    dtype_name,
)

WIDTH = 64  # of an expression, before it is wrapped
MOST_LINES = 6  # that one expression may take
MOST_ROWS = 400  # that one page may take


class Row(NamedTuple):
    """One node of a listing: its name (`%3`), its expression, shape and dtype, and its line."""

    node: Node
    name: str
    text: str
    kind: str = ""
    where: str = ""


def rows(
    nodes: Iterable[Node], constants: Sequence[Any] = (), notes: Mapping[Node, Any] | None = None
) -> tuple[list[Row], dict[Node, str]]:
    """The rows of a listing, and every node's name in it; constants have a name and no row."""
    names: dict[Node, str] = {}
    found: list[Row] = []
    for node in nodes:
        if node.op in (ops.CONSTANT, ops.NUMBER):
            names[node] = _constant(node, constants)
            continue
        names[node] = f"%{len(found)}"
        note = notes.get(node) if notes is not None else None
        kind = f"{note.shape} {note.dtype}" if note and note.shape is not None else ""
        where = plain(note.where) if note else ""
        found.append(Row(node, names[node], plain(expression(node, names)), kind, where))
    return found, names


def listing(graph: GraphBase, mark: Node | None = None, most: int = MOST_ROWS) -> str:
    """The numbered listing of a graph.

    Args:
        mark: a node to point at with an arrow.
        most: how many nodes to list; of a longer graph the middle is left out.
    """
    found, names = rows(graph.nodes(), graph.constants, graph.notes)
    if len(found) <= most:
        lines = _table(found, mark)
    else:
        first, last = found[: most // 2], found[len(found) - most // 2 :]
        gap = f"  ... {len(found) - len(first) - len(last)} more ..."
        lines = [*_table(first, mark), gap, *_table(last, mark)]
    return "\n".join([headline(graph), *lines, *_deeds(graph, names, most)])


def around(
    where: GraphBase | Iterable[Node],
    node: Node,
    lines: int = 3,
    constants: Sequence[Any] = (),
    notes: Mapping[Node, Any] | None = None,
) -> str:
    """The listing's lines around one node, with an arrow at it: for errors.

    Args:
        where: the graph that holds the node, or nodes in order, inputs before users.
        lines: how many nodes to show before and after it.
        constants, notes: for bare nodes, what their graph would know.
    Returns: the lines; where the node is in no row (a number, say), `""`.
    """
    if isinstance(where, Iterable):
        nodes: Iterable[Node] = where
    else:
        nodes, constants, notes = where.nodes(), where.constants, where.notes
    found, _ = rows(nodes, constants, notes)
    at = next((index for index, row in enumerate(found) if row.node is node), None)
    if at is None:
        return ""
    return "\n".join(_table(found[max(0, at - lines) : at + lines + 1], node))


def _table(found: Sequence[Row], mark: Node | None) -> list[str]:
    """Rows in columns, as wide as these rows need."""
    texts = [_wrapped(f"{row.name} = {row.text}", len(row.name) + 3) for row in found]
    left = max((len(text[0]) for text in texts), default=0)
    middle = max((len(row.kind) for row in found), default=0)
    lines = []
    for row, (first, *rest) in zip(found, texts, strict=True):
        arrow = "->" if row.node is mark else "  "
        lines.append(f"{arrow}{first:<{left}}  {row.kind:<{middle}}  {row.where}".rstrip())
        lines += ["  " + line for line in rest]
    return lines


def _wrapped(text: str, indent: int) -> list[str]:
    if len(text) <= WIDTH:
        return [text]
    return textwrap.wrap(
        text[: WIDTH * (MOST_LINES + 2)],
        WIDTH,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        replace_whitespace=False,
        max_lines=MOST_LINES,
        placeholder=" ...",
    )


def _deeds(graph: GraphBase, names: Mapping[Node, str], most: int) -> list[str]:
    """What the graph does with its nodes: writes, saves, and what is deferred."""
    lines = [f"  write {plain(str(site))} <- {names[node]}" for site, node in graph.writes]
    lines += [f"  save {name!r} <- {names[node]}" for name, node in graph.saves]
    for deferred in graph.then:
        if is_graph(deferred):
            inside = listing(deferred, None, most).split("\n")[1:]
            lines += ["  then", *("  " + line for line in inside)]
        else:
            where = f"  {deferred.where}" if deferred.where else ""
            lines.append(plain(f"  then {deferred}{where}"))
    return lines


def headline(graph: GraphBase) -> str:
    """`graph: 2 writes, 1 save, 1 deferred edit`"""
    counts = [(len(graph.writes), "write"), (len(graph.saves), "save")]
    kinds = [{Edit: "edit", Read: "read"}.get(type(one), "graph") for one in graph.then]
    counts += [(kinds.count(kind), f"deferred {kind}") for kind in dict.fromkeys(kinds)]
    said = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts]
    params = dict.fromkeys(n.args[0] for n in graph.nodes() if n.op == ops.PARAM)
    return f"graph: {', '.join(said)}" + (f"; params {', '.join(params)}" if params else "")


def plain(text: str) -> str:
    """Text without anything that would break a line or upset a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _constant(node: Node, constants: Sequence[Any]) -> str:
    index = node.args[0]
    value = constants[index] if index < len(constants) else None
    if node.op == ops.NUMBER:
        return repr(value) if value is not None else f"#{index}"
    if value is None:
        return f"${index}"
    dtype = dtype_name(getattr(value, "dtype", ""))
    return f"${index}:{dtype}{list(getattr(value, 'shape', ()))}".replace(" ", "")


def expression(node: Node, names: dict[Node, str]) -> str:
    """One node as Python-like text, its inputs by the given names."""

    def show(value: Any) -> str:
        return show_argument(value, names)

    args = node.args
    if node.op == ops.SITE:
        return str(site_of(node))
    if node.op == ops.PARAM:
        name, shape, dtype = args
        kind = f", shape={shape}" if shape is not None else ""
        return f"param({name!r}{kind}{f', {dtype}' if dtype else ''})"
    if node.op in ops.SYMBOLS and len(args) == 2 and not node.kwargs:
        return f"{show(args[0])} {ops.SYMBOLS[node.op]} {show(args[1])}"
    if node.op == ops.GETITEM:
        return f"{show(args[0])}[{_index(args[1], names)}]"
    if node.op == ops.ITEM:
        return f"{show(args[0])}[{args[1]!r}]"
    if node.op == ops.UPDATE:
        return f"{node.op}({show(args[0])}, [{_index(args[1], names)}], {show(args[2])})"
    if node.op in (ops.APPLY, ops.CALL):
        first = 1 if node.op == ops.CALL and is_draw(node) else 0
        name = show(args[0]) if node.op == ops.APPLY else (args[first] or "model")
        inside = [show(value) for value in args[first + 1 :]]
        return f"{name}({', '.join(inside + _keywords(node, names))})"
    inside = [show(value) for value in args]
    return f"{ops.short(node.op)}({', '.join(inside + _keywords(node, names))})"


def _keywords(node: Node, names: dict[Node, str]) -> list[str]:
    return [f"{name}={show_argument(value, names)}" for name, value in node.kwargs]


def _index(index: Any, names: dict[Node, str]) -> str:
    if type(index) is tuple and index:
        inside = ", ".join(show_argument(part, names) for part in index)
        return f"{inside}," if len(index) == 1 else inside
    return show_argument(index, names)


def show_argument(value: Any, names: dict[Node, str]) -> str:
    """A frozen argument as Python would write it."""
    kind = type(value)
    if kind is Node:
        return names.get(value) or repr(value)
    if kind is Slice:
        start, stop, step = ("" if v is None else show_argument(v, names) for v in value.value)
        return f"{start}:{stop}" + (f":{step}" if step else "")
    if kind is tuple:
        inner = ", ".join(show_argument(v, names) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if kind is FrozenList:
        return "[" + ", ".join(show_argument(v, names) for v in value.value) + "]"
    if kind is FrozenDict:
        pairs = (f"{k!r}: {show_argument(v, names)}" for k, v in value.value)
        return "{" + ", ".join(pairs) + "}"
    if value is Ellipsis:
        return "..."
    if kind is DType or kind is Device:
        return value.value
    if kind is Opaque:
        return opaque_name(value.value)
    if kind is Literal:
        return repr(value.value)
    return repr(value)


def opaque_name(function: Any) -> str:
    """A Python object that the graph cannot look into, as a person would name it."""
    return getattr(function, "__qualname__", None) or type(function).__name__


def brief(node: Node, constants: Sequence[Any] = (), depth: int = 2) -> str:
    """One node as a short expression, its inputs written out `depth` levels down."""
    if node.op in (ops.CONSTANT, ops.NUMBER):
        return _constant(node, constants)
    if node.op == ops.SITE:
        return site_of(node).spoken
    if is_first_argument(node):
        return site_of(node.args[0].args[0]).spoken.removesuffix("s")
    names = {child: brief(child, constants, depth - 1) if depth else "..." for child in node.inputs}
    return expression(node, names)


def is_first_argument(node: Node) -> bool:
    """Whether a node is a module's `.input`, which is `.inputs[0][0]`."""
    for _ in range(2):
        if node.op != ops.ITEM or node.args[1] != 0:
            return False
        node = node.args[0]
    return node.op == ops.SITE and site_of(node).port == INPUTS
