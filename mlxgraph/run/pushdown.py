"""Slice push-down: the final norm and the head run on the positions that somebody asked for.

Most runs want the logits of the last position and nothing else, and the head is the largest
matrix of a small model.  If every use of the model's output takes fixed positions, and nothing
looks in between, the same numbers come from cutting the residual stream where it enters the
final norm: norm and head treat each position alone.

In: a graph, what is to be saved, a census, the tree.  Out: an equal graph that writes the cut
stream into the norm, or None.  When in doubt, None: the modules after the cut have to be ones
that are known to treat positions alone, inside models of mlx-lm, and a trace of the edited forward
has to give as many positions as were kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_node, substitute, walk
from mlxgraph.graph.site import INPUTS, OUTPUT, SKIP, Site
from mlxgraph.graph.values import FULL, Slice
from mlxgraph.mlx_facts.compiling import only_traced
from mlxgraph.run.call import Call
from mlxgraph.run.plan import Reach, reach
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree

NAME = "pushdown"
WHOLE = Site("", OUTPUT)
_HEADS = (nn.Linear, nn.QuantizedLinear)
_NORMS = (nn.RMSNorm, nn.LayerNorm)
_MODELS = "mlx_lm.models."


class Cut(NamedTuple):
    """Where the stream is cut, and what is kept: positions `start` to `stop`, `stop` excluded."""

    norm: Site
    start: int
    stop: int


def push_down(
    graph: Graph, saves: Sequence[Node], census: Census, tree: ModuleTree
) -> Pushed | None:
    """The same saves from an output of fewer positions, or None where that is not surely so."""
    seen = reach(graph, census, saves)
    if seen.last != WHOLE or census.draws or not census.traceable:
        return None
    if any(node.op == ops.GRAD for node in walk([*saves, *seen.writes.values()])):
        return None
    norm = stream_entry(census, tree)
    if norm is None or not _left_alone(seen, census, norm):
        return None
    shape = census.values[WHOLE].shape
    flat = substitute(saves, lambda node: _at_once(node, shape))
    indices = _uses([flat[node] for node in saves])
    ranges = [_positions(index, shape) for index in indices or ()]
    if not ranges or any(r is None for r in ranges):
        return None
    start = min(min(r) for r in ranges if r is not None)
    stop = max(max(r) for r in ranges if r is not None) + 1
    if stop - start == shape[1]:
        return None
    return _pushed(graph, saves, flat, Cut(norm, start, stop), shape)


class Pushed(NamedTuple):
    """A graph whose output has fewer positions, what it saves, and where the stream is cut."""

    graph: Graph
    saves: tuple[Node, ...]
    cut: Cut


def _pushed(
    graph: Graph, asked: Sequence[Node], flat: dict[Node, Node], cut: Cut, shape: tuple[int, ...]
) -> Pushed:
    """Cut the stream, and count the saves' positions from the cut on.

    Args: flat: each node -> the one that indexes the output at once.
    """
    output = site_node(*WHOLE)

    def shifted(node: Node) -> Node | None:
        if node.op == ops.GETITEM and node.args[0] is output:
            return Node(ops.GETITEM, (output, _shifted(node.args[1], shape, cut.start)))
        return None

    moved = substitute([flat[node] for node in asked], shifted)
    new = {node: moved[flat[node]] for node in asked}
    write = _cut_inputs(dict(graph.writes).get(cut.norm) or site_node(*cut.norm), cut)
    kept = [(site, node) for site, node in graph.writes if site != cut.norm]
    saves = [(name, new.get(node, node)) for name, node in graph.saves]
    edited = graph.replace(writes=[*kept, (cut.norm, write)], saves=saves)
    return Pushed(edited, tuple([new[node] for node in asked]), cut)


def _cut_inputs(inputs: Node, cut: Cut) -> Node:
    """The norm's `(args, kwargs)` with only the kept positions of its first argument."""
    args = Node(ops.ITEM, (inputs, 0))
    stream = Node(ops.ITEM, (args, 0))
    kept = Node(ops.GETITEM, (stream, (FULL, Slice(cut.start, cut.stop, None))))
    return Node(ops.PUT, (inputs, 0, Node(ops.PUT, (args, 0, kept))))


# -- the end of the model -------------------------------------------------------------------------


def stream_entry(census: Census, tree: ModuleTree) -> Site | None:
    """Where the residual stream enters the final norm, if all that follows is known.

    From there on the forward may call heads, and leave the modules that hold them and the norm,
    and nothing else; these have to be mlx-lm's own.
    """
    output = census.values.get(WHOLE)
    if not isinstance(output, mx.array) or output.ndim != 3:
        return None
    left: set[str] = set()
    for site in reversed(census.of_modules()):
        if site.call:
            return None
        module = tree.modules.get(site.path)
        if site.port == OUTPUT:
            left.add(site.path)
        elif site.port != INPUTS or site.path not in left:
            return None
        elif _is_norm(module):
            return site if _takes_the_stream(census, site) else None
        elif not _is_head(module):
            return None
        if not (_is_norm(module) or _is_head(module) or is_mlx_lms(module)):
            return None
    return None


def _is_norm(module: Any) -> bool:
    kind = type(module)
    return kind in _NORMS or (kind.__name__.endswith("Norm") and is_mlx_lms(module))


def _is_head(module: Any) -> bool:
    return type(module) in _HEADS


def is_mlx_lms(module: Any) -> bool:
    """Whether a module is of a class of mlx-lm's."""
    return type(module).__module__.startswith(_MODELS)


def _takes_the_stream(census: Census, norm: Site) -> bool:
    """Whether the norm is called with nothing but an array as long as the model's output."""
    args, kwargs = census.values[norm]
    if kwargs or len(args) != 1 or not isinstance(args[0], mx.array) or args[0].ndim != 3:
        return False
    return args[0].shape[:2] == census.values[WHOLE].shape[:2]


def _left_alone(seen: Reach, census: Census, norm: Site) -> bool:
    """Whether no read and no write falls between the norm's input and the model's output."""
    start, end = census.order[norm], census.order[WHOLE]
    touched = {*seen.read, *seen.writes}
    if any(start < census.position(site) < end for site in touched):
        return False
    skipped = [site.path for site in seen.writes if site.port == SKIP]
    return not any(f"{norm.path}.".startswith(f"{path}." if path else "") for path in skipped)


# -- which positions ------------------------------------------------------------------------------


def _uses(saves: Sequence[Node]) -> list[Any] | None:
    """The indices with which the output is read, or None if it is used in any other way."""
    found = []
    output = site_node(*WHOLE)
    if output in saves:
        return None
    for node in walk(saves):
        if output in node.inputs:
            if node.op != ops.GETITEM or node.args[0] is not output:
                return None
            found.append(node.args[1])
    return found


def _by_axis(index: Any, ndim: int) -> list[Any] | None:
    """An index as one entry an axis, or None if it makes axes or mixes them up."""
    parts = list(index) if type(index) is tuple else [index]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [FULL] * (ndim - len(parts) + 1)
    parts += [FULL] * (ndim - len(parts))
    if len(parts) != ndim or any(part is None or part is Ellipsis for part in parts):
        return None
    return parts if all(type(part) in (int, Slice) for part in parts[:2]) else None


def _positions(index: Any, shape: tuple[int, ...]) -> range | None:
    """The positions of the sequence that an index takes, or None if they are not fixed."""
    parts = _by_axis(index, len(shape))
    if parts is None:
        return None
    length, part = shape[1], parts[1]
    if type(part) is int:
        return range(part % length, part % length + 1) if -length <= part < length else None
    bounds = part.value
    if any(type(bound) is not int and bound is not None for bound in bounds) or bounds[2] == 0:
        return None
    taken = range(*slice(*bounds).indices(length))
    return taken if taken and taken.step > 0 else None


def _at_once(node: Node, shape: tuple[int, ...]) -> Node | None:
    """output[i][j]  ->  output[k], where i takes ranges: the rows of one prompt among several"""
    output = site_node(*WHOLE)
    match node:
        case Node(ops.GETITEM, (Node(ops.GETITEM, (base, first)), second)) if base is output:
            outer, inner = _by_axis(first, len(shape)), _by_axis(second, len(shape))
            if outer is None or inner is None or any(type(part) is not Slice for part in outer):
                return None
            parts = [_within(*three) for three in zip(outer, inner, shape, strict=True)]
            return None if None in parts else Node(ops.GETITEM, (output, tuple(parts)))
    return None


def _within(outer: Slice, inner: Any, size: int) -> Any:
    """The part of an axis that an index takes of what a slice takes; None where that is unsure."""
    bounds = [*outer.value, *(inner.value if type(inner) is Slice else ())]
    if any(type(bound) is not int and bound is not None for bound in bounds):
        return None
    taken = range(size)[slice(*outer.value)]
    if type(inner) is int:
        return taken[inner] if -len(taken) <= inner < len(taken) else None
    if type(inner) is not Slice:
        return inner if outer == FULL else None
    taken = taken[slice(*inner.value)]
    return Slice(taken.start, taken.stop, taken.step) if taken and taken.step > 0 else None


def _shifted(index: Any, shape: tuple[int, ...], start: int) -> Any:
    """The index that takes the same positions when the first `start` of them are gone."""
    parts = _by_axis(index, len(shape))
    taken = _positions(index, shape)
    assert parts is not None and taken is not None
    if type(parts[1]) is int:
        parts[1] = taken.start - start
    else:
        parts[1] = Slice(taken.start - start, taken.stop - start, taken.step)
    return tuple(parts)


# -- the proof ------------------------------------------------------------------------------------


def holds(cut: Cut, census: Census, tree: ModuleTree, call: Call) -> bool:
    """Whether a forward with the stream cut gives an output of just the positions that were kept.

    The forward is traced and not computed; a model that cannot do with fewer positions shows here.
    """
    shapes: list[tuple[int, ...]] = []

    def enter(path: str, norm: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        return norm(args[0][:, cut.start : cut.stop], *args[1:], **kwargs)

    def forward(*tracers: mx.array) -> None:
        root = StandIn(tree, [cut.norm.path], enter).root
        args, kwargs = call.filled(tracers)
        with tree.beyond.as_it_was():
            shapes.append(call.forward(root, args, kwargs).shape)

    try:
        only_traced(forward, call.arrays)
    except Exception:  # whatever the model has against it, the plan without the cut stands
        return False
    batch, _, width = census.values[WHOLE].shape
    return shapes == [(batch, cut.stop - cut.start, width)]
