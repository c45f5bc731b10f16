"""A graph as a page that a person can read.

One line a node, in the order in which a run could compute them: number, expression, shape,
dtype, and the line of the user's file it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlxgraph.graph.node import APPLY, CALL, CONSTANT, NUMBER, PARAM, SITE, Node, site_of
from mlxgraph.graph.values import DType, FrozenDict, FrozenList, Literal, Opaque, Slice

if TYPE_CHECKING:
    from mlxgraph.graph.graph import Graph

INFIX = {
    "mx.add": "+",
    "mx.subtract": "-",
    "mx.multiply": "*",
    "mx.divide": "/",
    "mx.floor_divide": "//",
    "mx.remainder": "%",
    "mx.power": "**",
    "mx.matmul": "@",
    "mx.less": "<",
    "mx.less_equal": "<=",
    "mx.greater": ">",
    "mx.greater_equal": ">=",
    "mx.equal": "==",
    "mx.not_equal": "!=",
}


def listing(graph: Graph, mark: Node | None = None) -> str:
    """The numbered listing of a graph; `mark` points at one node with an arrow."""
    lines = [_headline(graph)]
    names: dict[Node, str] = {}
    rows: list[tuple[str, str, str]] = []
    marked = -1
    for node in graph.nodes():
        if node.op in (CONSTANT, NUMBER):
            names[node] = _constant(node, graph.constants)
            continue
        names[node] = f"%{len(rows)}"
        if node is mark:
            marked = len(rows)
        note = graph.notes.get(node)
        kind = f"{note.shape} {note.dtype}" if note and note.shape is not None else ""
        rows.append(
            (f"{names[node]} = {expression(node, names)}", kind, note.where if note else "")
        )
    left = max((len(row[0]) for row in rows), default=0)
    middle = max((len(row[1]) for row in rows), default=0)
    for index, (what, kind, where) in enumerate(rows):
        arrow = "->" if index == marked else "  "
        lines.append(f"{arrow}{what:<{min(left, 72)}}  {kind:<{middle}}  {where}".rstrip())
    for site, node in graph.writes:
        lines.append(f"  write {site} <- {names[node]}")
    for name, node in graph.saves:
        lines.append(f"  save {name!r} <- {names[node]}")
    for step in graph.then:
        if hasattr(step, "writes"):
            lines += ["  then", *("  " + line for line in listing(step).split("\n")[1:])]
        else:
            lines.append(f"  then {step}" + (f"  {step.where}" if step.where else ""))
    return "\n".join(lines)


def _headline(graph: Graph) -> str:
    writes, saves = len(graph.writes), len(graph.saves)
    return (
        f"graph: {writes} write{'' if writes == 1 else 's'}, "
        f"{saves} save{'' if saves == 1 else 's'}"
    )


def _constant(node: Node, constants: tuple[Any, ...]) -> str:
    index = node.args[0]
    value = constants[index] if index < len(constants) else None
    if node.op == NUMBER:
        return repr(value) if value is not None else f"#{index}"
    if value is None:
        return f"${index}"
    dtype = str(getattr(value, "dtype", "")).removeprefix("mlx.core.")
    return f"${index}:{dtype}{list(getattr(value, 'shape', ()))}".replace(" ", "")


def expression(node: Node, names: dict[Node, str]) -> str:
    """One node as Python-like text, its inputs by the given names."""

    def show(value: Any) -> str:
        return show_argument(value, names)

    args = node.args
    if node.op == SITE:
        return str(site_of(node))
    if node.op == PARAM:
        name, shape, dtype = args
        kind = f", shape={shape}" if shape is not None else ""
        return f"param({name!r}{kind}{f', {dtype}' if dtype else ''})"
    if node.op in INFIX and len(args) == 2 and not node.kwargs:
        return f"{show(args[0])} {INFIX[node.op]} {show(args[1])}"
    if node.op == "getitem":
        return f"{show(args[0])}[{_index(args[1], names)}]"
    if node.op == "item":
        return f"{show(args[0])}[{args[1]!r}]"
    if node.op == "update":
        return f"update({show(args[0])}, [{_index(args[1], names)}], {show(args[2])})"
    if node.op in (APPLY, CALL):
        called = show(args[0]) if node.op == APPLY else (args[0] or "model")
        inside = [show(value) for value in args[1:]]
        return f"{called}({', '.join(inside + _keywords(node, names))})"
    inside = [show(value) for value in args]
    return f"{node.op.removeprefix('mx.')}({', '.join(inside + _keywords(node, names))})"


def _keywords(node: Node, names: dict[Node, str]) -> list[str]:
    return [f"{name}={show_argument(value, names)}" for name, value in node.kwargs]


def _index(index: Any, names: dict[Node, str]) -> str:
    if type(index) is tuple:
        return ", ".join(show_argument(part, names) for part in index)
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
    if kind is DType:
        return value.value
    if kind is Opaque:
        return getattr(value.value, "__qualname__", None) or type(value.value).__name__
    if kind is Literal:
        return repr(value.value)
    return repr(value)


def brief(node: Node, constants: Sequence[Any] = (), depth: int = 2) -> str:
    """One node as a short expression, its inputs written out `depth` levels down."""
    if node.op in (CONSTANT, NUMBER):
        return _constant(node, tuple(constants))
    names = {child: brief(child, constants, depth - 1) if depth else "..." for child in node.inputs}
    return expression(node, names)
