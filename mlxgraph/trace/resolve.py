"""Resolving: a graph meets a model.

In: a graph, possibly with edits and reads by pattern, and an open recording on a model.
Out: nothing; the recording goes on from where the graph leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlxgraph.errors import BoundsError, CountError, HeadsError
from mlxgraph.graph.algebra import draws, is_graph, rebuilt, shifted_by
from mlxgraph.graph.deferred import Edit, Positions, Read
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import PARAM, SITE, Node, site_of
from mlxgraph.graph.site import INPUTS, OUTPUT, SKIP, Site
from mlxgraph.record.apply import changed, first_array
from mlxgraph.record.proxy import wrap
from mlxgraph.record.recording import Recording

if TYPE_CHECKING:
    from mlxgraph.model.model import InterpretableModel

OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "wo", "c_proj", "dense", "proj", "output_proj")
HEAD_COUNTS = ("n_heads", "num_heads", "num_attention_heads", "n_head", "num_query_heads")


def take_in(
    recording: Recording, graph: Graph, model: InterpretableModel, lengths: list[int] | None
) -> None:
    """Continue a recording with what a graph does: it reads what was written so far."""
    shifted = shifted_by(graph.replace(then=()), len(recording.constants), recording.draws)
    recording.draws += draws(graph)
    recording.constants.extend(graph.constants)

    def current(node: Node) -> Node | None:
        return recording.cell(site_of(node)).node if node.op == SITE else None

    moved = rebuilt(shifted, current)
    for node in moved.nodes():
        note = moved.notes.get(node)
        if note is not None and note.where:
            recording.places.setdefault(node, note.where)
        recording.info(node)
        if node.op == PARAM:
            recording.params.setdefault(node.args[0], node)
    for site, node in moved.writes:
        if site.port != SKIP:
            cell = recording.cell(site)
            recording.check_order(cell.site, node)
            cell.node = node
    for site, node in moved.writes:
        if site.port == SKIP:  # last: nothing inside the module can be named from here on
            value = wrap(recording, node, recording.info(node).value)
            recording.skip(site._replace(port=OUTPUT), value)
    for name, node in moved.saves:
        recording.saves.append((name, wrap(recording, node, recording.info(node).value)))
    for step in graph.then:
        if is_graph(step):
            take_in(recording, step, model, lengths)
        elif isinstance(step, Edit):
            _edit(recording, step, model, lengths)
        else:
            _read(recording, step, model)


def _matched(step: Edit | Read, model: InterpretableModel) -> list[str]:
    paths = model._names.matching(step.pattern, step.expect == 0)
    if step.expect is not None and len(paths) != step.expect:
        raise CountError(step.pattern, paths, step.expect, step.where)
    return paths


def _read(recording: Recording, step: Read, model: InterpretableModel) -> None:
    paths = _matched(step, model)
    for path in paths:
        handle = _port(recording, path, step.port)
        name = step.name
        if name is not None and len(paths) > 1:
            name = f"{name}.{path}"
        recording.save(handle, name)


def _port(recording: Recording, path: str, port: str) -> Any:
    if port != "input":
        return recording.read(Site(path, port))
    args, kwargs = recording.read(Site(path, INPUTS))
    return args[0] if len(args) else kwargs[next(iter(kwargs.keys()))]


def _edit(
    recording: Recording, step: Edit, model: InterpretableModel, lengths: list[int] | None
) -> None:
    for path in _matched(step, model):
        if step.heads == () or step.positions == ():
            continue
        if step.heads is not None:
            handle = _heads(recording, model, path, step.heads, step.where)
        else:
            handle = first_array(_port(recording, path, step.port))
        for part in at_positions(handle, step.positions, lengths):
            value = changed(step.function, part)
            if part._base is None:
                recording.replace(Site(path, OUTPUT), value)
            else:
                recording.write(part, value)


def _ragged(lengths: list[int] | None) -> bool:
    return lengths is not None and min(lengths) != max(lengths)


def rows_of(lengths: list[int] | None) -> tuple[int, ...] | None:
    """What about the lengths decides what positions mean: nothing, where all are the same."""
    return tuple(lengths or ()) if _ragged(lengths) else None


def at_positions(handle: Any, positions: Positions, lengths: list[int] | None) -> Iterator[Any]:
    """Views of some positions of the sequence axis (axis 1), counted from each row's real ends.

    One view, as a rule.  Of a slice that means different numbers of positions in rows of several
    lengths, one for each row that has any; of nothing, none.
    """
    if positions is None:
        yield handle
    elif lengths is None or not _ragged(lengths):
        if isinstance(positions, slice) and not range(*positions.indices(handle.shape[1])):
            return
        yield handle[:, list(positions) if isinstance(positions, tuple) else positions]
    elif isinstance(positions, int):
        columns = _columns(handle, (positions,), lengths)
        yield handle[mx.arange(len(lengths)), mx.array([row[0] for row in columns])]
    else:
        columns = _columns(handle, positions, lengths)
        if len({len(row) for row in columns}) == 1 and columns[0]:
            yield handle[mx.arange(len(lengths))[:, None], mx.array(columns)]
            return
        for row, chosen in enumerate(columns):
            if chosen:
                yield handle[row : row + 1, chosen]


def _columns(
    handle: Any, positions: slice | tuple[int, ...], lengths: list[int]
) -> list[list[int]]:
    """For each row of a left-padded batch the columns that it means by these positions."""
    longest, columns = max(lengths), []
    for length in lengths:
        if isinstance(positions, slice):
            columns.append([longest - length + p for p in range(*positions.indices(length))])
            continue
        for p in positions:
            if not -length <= p < length:
                raise BoundsError(p, 1, length, tuple(handle.shape), "mg.edit")
        columns.append([longest - length + p % length for p in positions])
    return columns


def _heads(
    recording: Recording, model: InterpretableModel, path: str, heads: tuple[int, ...], where: str
) -> Any:
    """A view of some heads' outputs, (batch, length, heads, head width), where the output
    projection takes them in."""
    tree = model._names.tree
    attention: Any = tree.modules[path]
    count = next((getattr(attention, n) for n in HEAD_COUNTS if hasattr(attention, n)), None)
    names = [n for n in OUTPUT_PROJECTIONS if f"{path}.{n}" in tree.modules]
    if count is None or not names:
        raise HeadsError(path, type(attention).__name__, where)
    flat = recording.read(Site(f"{path}.{names[0]}", INPUTS))[0][0]
    for head in heads:
        if not -count <= head < count:
            raise BoundsError(head, 2, count, (*flat.shape[:-1], count), where)
    split = flat.reshape(*flat.shape[:2], count, flat.shape[2] // count)
    return split[:, :, [head % count for head in heads]]
