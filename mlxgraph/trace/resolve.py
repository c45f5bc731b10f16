"""Resolving: a graph meets a model.

In: a graph, possibly with deferred edits and reads, and an open recording.
Out: nothing; the recording goes on from where the graph leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx

from mlxgraph.errors import (
    CountError,
    HeadsError,
    InterventionError,
    NoLayerError,
    PositionError,
    ShapeError,
)
from mlxgraph.graph.deferred import Edit, Positions, Read, is_graph, site_name
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.inside import ATTENTION, HEADS, KEYS, VALUES, below, may_be_inside, parted
from mlxgraph.graph.site import INPUTS, OUTPUT, Site
from mlxgraph.record.apply import changed, edited_array
from mlxgraph.record.handle import describe
from mlxgraph.record.nested_proxy import first_array
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import paused
from mlxgraph.run.names import NamedSite, Names
from mlxgraph.trace.all_heads import AllHeads, heads_of_all
from mlxgraph.trace.text_axes import Axes, AxesOf

FIRST = Axes(0, 1)  # of rows and of positions, in nearly every value
OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "wo", "c_proj", "dense", "proj", "output_proj")
HEAD_COUNTS = ("n_heads", "num_heads", "num_attention_heads", "n_head", "num_query_heads")


Find = AxesOf | None


def take_in(
    recording: Recording,
    graph: Graph,
    names: Names,
    lengths: list[int] | None,
    find: Find = None,
) -> None:
    """Continue a recording with what a graph does: it reads what was written so far.

    Args:
        lengths: the number of real tokens in each row, by which positions count.
        find: finds the axes of a value (`trace.text_axes`); without it positions are axis 1.
    """
    if graph.writes or graph.saves:
        recording.take_in(graph)
    for deferred in graph.then:
        if is_graph(deferred):
            take_in(recording, deferred, names, lengths, find)
        elif isinstance(deferred, Edit):
            _edit(recording, deferred, names, lengths, find)
        else:
            _read(recording, deferred, names)


def is_interventions(value: Any) -> bool:
    """Whether a trace's second input is what `interventions=` takes."""
    return isinstance(value, dict) and bool(value) and any(map(callable, value.values()))


def intervene(recording: Recording, names: Names, interventions: Mapping[Any, Any]) -> None:
    """Replace sites' values by functions of them, one name or pattern after the other."""
    if not isinstance(interventions, Mapping):
        raise InterventionError(
            f"interventions= takes functions by name, not a {type(interventions).__name__}.\n"
            "  Write interventions={'layers.1.mlp': iv.scale(0.5)}."
        )
    for name, function in interventions.items():
        for named in meant(recording, names.sites(name)):
            handle = edited_array(read_named(recording, named), named.site)
            recording.write_at(named.site, handle, changed(function, handle))


def meant(recording: Recording, found: list[NamedSite]) -> list[NamedSite]:
    """The first of each that is another: names of one module's one call are one site.

    Of sites inside modules, several of which a pattern means, those that the forward comes to.
    """
    if len(found) == 1:
        return found
    if found and may_be_inside(found[0].site.path):
        visits = recording.visited.visits
        with paused():
            found = [n for n in found if visits(recording.visited.meant(n.site))] or found[:1]
    return list({(recording.meant(n.site), n.first): n for n in reversed(found)}.values())[::-1]


def read_named(recording: Recording, named: NamedSite) -> Any:
    """A handle on what a name means."""
    whole = recording.read(named.site)
    return first_of(named, whole) if named.first else whole


def first_of(named: NamedSite, whole: Any) -> Any:
    """What a name means of a site's value: the first argument, or the first array."""
    return first_argument(whole) if named.site.port == INPUTS else first_array(whole)


def first_argument(inputs: Any) -> Any:
    """The first of a call's `(args, kwargs)`, recorded or not."""
    args, kwargs = inputs
    return args[0] if len(args) else kwargs[next(iter(kwargs.keys()))]


def _matched(recording: Recording, deferred: Edit | Read, names: Names) -> list[NamedSite]:
    found = meant(recording, names.sites(site_name(deferred), deferred.expect == 0))
    if deferred.expect is not None and len(found) != deferred.expect:
        paths = [named.site.path for named in found]
        raise CountError(deferred.pattern, paths, deferred.expect, deferred.where)
    return found


def _read(recording: Recording, deferred: Read, names: Names) -> None:
    found = _matched(recording, deferred, names)
    for named in found:
        name = deferred.name
        if name is not None and len(found) > 1:
            name = f"{name}.{named.site.path}"
        recording.save(read_named(recording, named), name)


def _edit(
    recording: Recording, deferred: Edit, names: Names, lengths: list[int] | None, find: Find
) -> None:
    for named in _matched(recording, deferred, names):
        if deferred.heads == () or deferred.positions == ():
            continue
        whole = None
        if deferred.heads is not None:
            whole = heads_of_all(recording, names, named.site)
            handle = _heads(recording, names, named.site, deferred.heads, deferred.where, whole)
        else:
            handle = edited_array(read_named(recording, named), named.site)
        for part in _chosen(recording, named.site, handle, deferred, lengths, find):
            recording.write_at(named.site, part, changed(deferred.function, part))
        if whole is not None:
            whole.put_back()


def _chosen(
    recording: Recording,
    site: Site,
    handle: Any,
    edit: Edit,
    lengths: list[int] | None,
    find: Find,
) -> Iterator[Any]:
    """The views that an edit is of: heads come before positions inside an attention."""
    positions, where = edit.positions, edit.where
    if positions is None or edit.heads is not None and not _is_inside(recording, site):
        yield from at_positions(handle, positions, lengths, where)
    elif _is_inside_attention(recording, site):
        if find is not None and _is_of_keys(site) and not find.are_all(handle.shape[2]):
            raise ShapeError(
                f"{describe(handle)} has {handle.shape[2]} keys, which are not those of all tokens"
                " so far: which are kept, and in what order, is the cache's affair",
                where,
                "Leave positions out, or edit `pattern` or what the keys are made of.",
            )
        for part in at_positions(handle.swapaxes(1, 2), positions, lengths, where):
            yield part if isinstance(positions, int) else part.swapaxes(1, 2)
    elif find is None or handle.ndim < 3:
        yield from at_positions(handle, positions, lengths, where)
    else:
        axes = find(site, handle)
        if axes is None or lengths and axes.rows is None and min(lengths) != max(lengths):
            raise ShapeError(
                f"{describe(handle)} is {tuple(handle.shape)}, which has no one axis of positions"
                " for each row",
                where,
                "Leave positions out, and choose what to change in the function itself.",
            )
        yield from at_positions(handle, positions, lengths, where, axes)


def _is_inside(recording: Recording, site: Site) -> bool:
    census = recording.visited
    meant = census.meant(site)
    return census.visits(meant) and census.is_inside(meant)


def _is_inside_attention(recording: Recording, site: Site) -> bool:
    tail = (parted(site.path) or ("", ""))[1]
    return tail in ATTENTION and _is_inside(recording, site)


def _is_of_keys(site: Site) -> bool:
    return (parted(site.path) or ("", ""))[1] in (KEYS, VALUES)


def at_positions(
    handle: Any,
    positions: Positions,
    lengths: list[int] | None,
    where: str = "mg.edit",
    axes: Axes = FIRST,
) -> Iterator[Any]:
    """Views of some positions of the sequence axis, counted from each row's real ends.

    One view, as a rule.  Of a slice that means different numbers of positions in rows of several
    lengths, one for each row that has any; of nothing, none.  In rows of several lengths the axes
    of rows and positions come first.
    """
    if positions is None:
        yield handle
        return
    _check_has_positions(handle, lengths, where)
    axis = axes.positions
    if lengths is None or min(lengths) == max(lengths):
        length = handle.shape[axis] if handle.ndim > axis else 0
        if isinstance(positions, slice) and not range(*positions.indices(length)):
            return
        for p in positions if isinstance(positions, tuple) else (positions,):
            if length and isinstance(p, int) and not -length <= p < length:
                raise PositionError(p, length, "the text", describe(handle), where)
        chosen = list(positions) if isinstance(positions, tuple) else positions
        yield handle[(*(slice(None),) * axis, chosen)]
        return
    if axes != FIRST:
        order = [axes.rows, axis, *(k for k in range(handle.ndim) if k not in axes)]
        handle = handle.transpose(*order)
    if isinstance(positions, int):
        columns = _columns(handle, (positions,), lengths, where)
        yield handle[mx.arange(len(lengths)), mx.array([row[0] for row in columns])]
    else:
        columns = _columns(handle, positions, lengths, where)
        if len({len(row) for row in columns}) == 1 and columns[0]:
            yield handle[mx.arange(len(lengths))[:, None], mx.array(columns)]
            return
        for row, chosen in enumerate(columns):
            if chosen:
                yield handle[row : row + 1, chosen]


def _check_has_positions(handle: Any, lengths: list[int] | None, where: str) -> None:
    """Raise where axis 1 of a value cannot be that of the positions: of two axes only a row of
    numbers for each text has it, and GPT-2's position embedding has one axis for both."""
    if handle.ndim > 2 or (lengths and handle.shape == (len(lengths), max(lengths))):
        return
    raise ShapeError(
        f"{describe(handle)} is {tuple(handle.shape)}, which has no axis of positions beside that"
        " of the batch",
        where,
        "Leave positions out, and choose what to change in the function itself: `h[-1] = 0`.",
    )


def _columns(
    handle: Any, positions: slice | tuple[int, ...], lengths: list[int], where: str
) -> list[list[int]]:
    """For each row of a left-padded batch the columns that it means by these positions."""
    longest, columns = max(lengths), []
    for row, length in enumerate(lengths):
        if isinstance(positions, slice):
            columns.append([longest - length + p for p in range(*positions.indices(length))])
            continue
        for p in positions:
            if not -length <= p < length:
                raise PositionError(p, length, f"text {row}", describe(handle), where)
        columns.append([longest - length + p % length for p in positions])
    return columns


def _heads(
    recording: Recording,
    names: Names,
    site: Site,
    heads: tuple[int, ...],
    where: str,
    whole: AllHeads | None = None,
) -> Any:
    """A view of some heads' outputs, (batch, length, heads, head dimension): as the attention
    gives them, or where none is seen, as the output projection takes them in.

    Args: whole: of a sharded attention, the heads of all ranks."""
    census, path = recording.visited, site.path
    if _is_inside_attention(recording, site):
        value = recording.read(site) if whole is None else whole.value
        return value[:, _numbered(heads, value.shape[1], path, where)]
    inside = census.meant(Site(below(path, HEADS), OUTPUT, site.call))
    if not census.visits(inside):
        return _projected(recording, names, path, heads, where)
    if census.calls(inside.path) != census.calls(census.meant(site).path):
        raise HeadsError(path, "several attentions in one call", where)
    found = recording.read(inside) if whole is None else whole.value
    chosen = _numbered(heads, found.shape[1], path, where)
    return found.transpose(0, 2, 1, 3)[:, :, chosen]


def _numbered(heads: tuple[int, ...], count: int, path: str, where: str) -> list[int]:
    """Heads by number from 0.  Raises: NoLayerError (an IndexError) for one that is not there."""
    for head in heads:
        if not -count <= head < count:
            raise NoLayerError("heads", head, count, where, path, True)
    return [head % count for head in heads]


def _projected(
    recording: Recording, names: Names, path: str, heads: tuple[int, ...], where: str
) -> Any:
    tree = names.tree
    attention: Any = tree.modules.get(tree.aliases.get(path, path))
    count = next((getattr(attention, n) for n in HEAD_COUNTS if hasattr(attention, n)), None)
    found = [n for n in OUTPUT_PROJECTIONS if names.exists(f"{path}.{n}")]
    if count is None or not found:
        raise HeadsError(path, type(attention).__name__, where)
    flat = recording.read(names.site(f"{path}.{found[0]}.inputs").site)[0][0]
    split = flat.reshape(*flat.shape[:2], count, flat.shape[2] // count)
    return split[:, :, _numbered(heads, count, path, where)]
