"""Graphs as pictures: Mermaid and DOT for drawing, HTML for notebooks.

One box a node, labelled as in the listing; arrows run from inputs to users, and on to what is
written and saved.  Deferred edits and reads follow one another below.
All text is escaped: whatever a site or a save is called, the picture stays well-formed.
"""

from __future__ import annotations

import html as markup
from collections.abc import Iterator
from textwrap import wrap
from typing import NamedTuple

from mlxgraph.graph import ops
from mlxgraph.graph.base import GraphBase
from mlxgraph.graph.deferred import is_graph
from mlxgraph.graph.listing import MOST_ROWS, Row, headline, plain, rows
from mlxgraph.graph.node import Node

LONGEST, MOST_LINES = 60, 3  # characters of a label's line, and lines of a text
# Pale fills with dark text stand out on a white page and on a black one.
FILLS = {
    ops.SITE: "#dbeafe",
    ops.PARAM: "#fef9c3",
    ops.CONSTANT: "#f3f4f6",
    ops.CALL: "#ede9fe",
    "operation": "#ffffff",
    "write": "#fee2e2",
    "save": "#dcfce7",
    "deferred": "#ffedd5",
}


class Box(NamedTuple):
    """One box of a drawing."""

    key: str
    kind: str
    label: tuple[str, ...]  # lines


class Group(NamedTuple):
    """One graph of a drawing: boxes, arrows between them, and the graphs inside."""

    key: str
    boxes: list[Box]
    arrows: list[tuple[str, str]]
    then: list[tuple[str, str]]  # arrows from one deferred edit or read to the next
    inside: list[Group]

    def walk(self) -> Iterator[Group]:
        """This group and all inside."""
        yield self
        for group in self.inside:
            yield from group.walk()


def drawing(graph: GraphBase, key: str = "g") -> Group:
    """What there is to draw, in no language yet."""
    found, names = rows(graph.nodes(), graph.constants, graph.notes)
    group = Group(key, [], [], [], [])
    keys: dict[Node, str] = {}
    for row in found:
        keys[row.node] = f"{key}_n{len(keys)}"
        group.boxes.append(Box(keys[row.node], _kind(row.node), _label(row)))
        group.arrows.extend([(keys[i], keys[row.node]) for i in row.node.inputs if i in keys])
    results = [("write", f"write {site}", node) for site, node in graph.writes]
    results += [("save", f"save {name!r}", node) for name, node in graph.saves]
    for count, (kind, label, node) in enumerate(results):
        if node not in keys:  # a constant, written or saved as it is
            keys[node] = f"{key}_n{len(keys)}"
            group.boxes.append(Box(keys[node], ops.CONSTANT, _in_lines(names[node])))
        group.boxes.append(Box(f"{key}_r{count}", kind, _in_lines(plain(label))))
        group.arrows.append((keys[node], f"{key}_r{count}"))
    _draw_deferred(graph, group)
    return group


def _draw_deferred(graph: GraphBase, group: Group) -> None:
    before = ""
    for count, deferred in enumerate(graph.then):
        here = f"{group.key}_d{count}"
        if is_graph(deferred):
            group.boxes.append(Box(here, "deferred", ("then a graph",)))
            inside = drawing(deferred, f"{here}_g")
            group.inside.append(inside)
            if inside.boxes:
                group.then.append((here, inside.boxes[0].key))
        else:
            group.boxes.append(Box(here, "deferred", _in_lines(plain(f"then {deferred}"))))
        if before:
            group.then.append((before, here))
        before = here


def _kind(node: Node) -> str:
    if node.op == ops.NUMBER:
        return ops.CONSTANT
    return node.op if node.op in (ops.SITE, ops.PARAM, ops.CALL) else "operation"


def _label(row: Row) -> tuple[str, ...]:
    lines = _in_lines(f"{row.name} = {row.text}")
    return (*lines, row.kind) if row.kind else lines


def _in_lines(text: str) -> tuple[str, ...]:
    """A text in a few lines, broken between words, or after a dot where one is longer."""
    if len(text) <= LONGEST:
        return (text,)
    room = text[: LONGEST * (MOST_LINES + 1)].replace(".", ".\u200b")  # may be broken there
    found = wrap(room.replace("\u200b", " \u200b"), LONGEST)
    lines = [line.replace(" \u200b", "").replace("\u200b", "") for line in found]
    kept = lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        kept[-1] = kept[-1][: LONGEST - 4] + " ..."
    return tuple(kept)


# -- Mermaid --------------------------------------------------------------------------------------

_SHAPES = {
    ops.SITE: ("([", "])"),
    "write": ("[[", "]]"),
    "save": ("(", ")"),
    "deferred": ("{{", "}}"),
}


def mermaid(graph: GraphBase) -> str:
    """The graph as a Mermaid flowchart."""
    lines = ["flowchart TD"]
    groups = list(drawing(graph).walk())
    _mermaid_group(groups[0], lines, "  ")
    for kind, fill in FILLS.items():
        members = [box.key for group in groups for box in group.boxes if box.kind == kind]
        if members:
            lines.append(f"  classDef {kind} fill:{fill},stroke:#6b7280,color:#111827")
            lines.append(f"  class {','.join(members)} {kind}")
    return "\n".join(lines)


def _mermaid_group(group: Group, lines: list[str], indent: str) -> None:
    for box in group.boxes:
        left, right = _SHAPES.get(box.kind, ("[", "]"))
        label = "<br/>".join(_mermaid_text(line) for line in box.label)
        lines.append(f'{indent}{box.key}{left}"{label}"{right}')
    lines += [f"{indent}{start} --> {end}" for start, end in group.arrows]
    for inside in group.inside:
        lines.append(f'{indent}subgraph {inside.key}[" "]')
        _mermaid_group(inside, lines, indent + "  ")
        lines.append(f"{indent}end")
    lines += [f"{indent}{start} -.-> {end}" for start, end in group.then]


def _mermaid_text(text: str) -> str:
    """Everything that Mermaid, Markdown or HTML could read as its own goes by number."""
    return "".join(c if c.isalnum() or c in " ._,()=+/:-" else f"#{ord(c)};" for c in text)


# -- DOT ------------------------------------------------------------------------------------------

_DOT_SHAPES = {"save": "note", "write": "component", "deferred": "cds"}


def dot(graph: GraphBase) -> str:
    """The graph in Graphviz' DOT language."""
    lines = [
        "digraph graph_ {",
        '  graph [bgcolor="transparent", rankdir="TB"];',
        '  node [shape="box", style="filled,rounded", color="#6b7280", fontcolor="#111827",'
        ' fontname="Helvetica", fontsize="10"];',
        '  edge [color="#6b7280", arrowsize="0.7"];',
    ]
    _dot_group(drawing(graph), lines, "  ")
    return "\n".join([*lines, "}"])


def _dot_group(group: Group, lines: list[str], indent: str) -> None:
    for box in group.boxes:
        label = "\\n".join(_dot_text(line) for line in box.label)
        shape = f', shape="{_DOT_SHAPES[box.kind]}"' if box.kind in _DOT_SHAPES else ""
        style = ', style="filled"' if shape else ""
        fill = FILLS[box.kind]
        lines.append(f'{indent}{box.key} [label="{label}", fillcolor="{fill}"{shape}{style}];')
    lines += [f"{indent}{start} -> {end};" for start, end in group.arrows]
    for inside in group.inside:
        lines.append(f"{indent}subgraph cluster_{inside.key} {{")
        lines.append(f'{indent}  color="#6b7280"; style="dashed";')
        _dot_group(inside, lines, indent + "  ")
        lines.append(f"{indent}}}")
    lines += [f'{indent}{start} -> {end} [style="dashed"];' for start, end in group.then]


def _dot_text(text: str) -> str:
    """Quoted, and with nothing left that Graphviz reads as an entity."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


# -- HTML -----------------------------------------------------------------------------------------

# Colours come from the page; what must differ from it does so by transparency alone.
_STYLE = """<style>
.mlxgraph { color: inherit; font-size: 0.9em; max-width: 100%; overflow-x: auto; }
.mlxgraph table { border-collapse: collapse; background: transparent; color: inherit; margin: 0; }
.mlxgraph td, .mlxgraph th { padding: 2px 12px 2px 0; border: 0; background: transparent;
  text-align: left; vertical-align: top; color: inherit; }
.mlxgraph th { font-weight: 600; border-bottom: 1px solid rgba(128, 128, 128, 0.5); }
.mlxgraph code { background: transparent; color: inherit; padding: 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.mlxgraph .dim { opacity: 0.65; white-space: nowrap; }
.mlxgraph .site td:first-child { box-shadow: inset 3px 0 0 rgba(59, 130, 246, 0.8); }
.mlxgraph .write td:first-child { box-shadow: inset 3px 0 0 rgba(239, 68, 68, 0.8); }
.mlxgraph .save td:first-child { box-shadow: inset 3px 0 0 rgba(34, 197, 94, 0.8); }
.mlxgraph .deferred td:first-child { box-shadow: inset 3px 0 0 rgba(249, 115, 22, 0.8); }
.mlxgraph td:first-child, .mlxgraph th:first-child { padding-left: 8px; }
</style>"""


def html(graph: GraphBase, most: int = MOST_ROWS) -> str:
    """The listing as a table, for notebooks: self-contained, without scripts."""
    head = "".join(f"<th>{title}</th>" for title in ("", "value", "shape", "line"))
    body = "\n".join(_html_rows(graph, most))
    title = markup.escape(headline(graph))
    return (
        f'{_STYLE}\n<div class="mlxgraph"><div><strong>{title}</strong></div>\n'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _html_rows(graph: GraphBase, most: int) -> Iterator[str]:
    found, names = rows(graph.nodes(), graph.constants, graph.notes)
    left_out = len(found) - most
    for index, row in enumerate(found):
        if left_out > 0 and most // 2 <= index < most // 2 + left_out:
            if index == most // 2:
                yield _html_row("more", "", f"... {left_out} more ...", "", "")
            continue
        yield _html_row(_kind(row.node), row.name, row.text, row.kind, row.where)
    for site, node in graph.writes:
        yield _html_row("write", "write", f"{site} <- {names[node]}", "", "")
    for name, node in graph.saves:
        yield _html_row("save", "save", f"{name!r} <- {names[node]}", "", "")
    for deferred in graph.then:
        if is_graph(deferred):
            yield _html_row("deferred", "then", headline(deferred), "", "")
            yield from _html_rows(deferred, most)
        else:
            yield _html_row("deferred", "then", str(deferred), "", deferred.where)


def _html_row(kind: str, name: str, text: str, shape: str, where: str) -> str:
    name, text, shape, where = (markup.escape(plain(part)) for part in (name, text, shape, where))
    return (
        f'<tr class="{kind}"><td class="dim">{name}</td><td><code>{text}</code></td>'
        f'<td class="dim">{shape}</td><td class="dim">{where}</td></tr>'
    )
